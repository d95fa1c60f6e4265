"""Keys, signatures and attestations, and the signers that a receiver trusts.

This package signs bytes and identifies their signers; it does not depend on reports or verdicts.
"""
