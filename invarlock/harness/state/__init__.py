"""A run and its directory: the value that every part reads, the locks between processes, and the disk it fills.

What killed processes left in the directory is removed here.
"""
