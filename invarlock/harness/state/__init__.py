"""A run and its directory: the ``Run`` value that all parts read, locks between processes, and disk usage.

This package also removes files that killed processes left in the directory.
"""
