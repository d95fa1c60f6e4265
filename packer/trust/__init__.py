"""Keys, signatures and attestations, and the signers that a receiver trusts.

Nothing here knows reports or verdicts: it signs bytes, and says whose they are.
"""
