"""Run directories: where a run keeps its files, how its verdict and its pack are made, and how shards are merged.

The harness and the packer's command line share this room.
"""
