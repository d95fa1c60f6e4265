"""Making a pack: gathering its files, sealing them, and adding a signature or an attestation later.

Whatever is made here is verified before anybody can see it.
"""
