"""Building a pack: collecting its files, sealing them, and adding a signature or an attestation later.

Every pack and signature is verified before it becomes visible under its final name.
"""
