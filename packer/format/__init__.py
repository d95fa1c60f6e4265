"""A pack on disk: layout, limits, checksums, manifest and README, and safe reading of an untrusted folder.

This package does not depend on keys, signatures or the meaning of reports.
"""
