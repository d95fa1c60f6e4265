"""What a pack is on disk: its layout, limits, checksums, manifest and README, and its folder read without trusting it.

Nothing here knows keys, signatures, or what a report means.
"""
