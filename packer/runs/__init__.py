"""Run directories: their layout, the verdict and pack at the end of a run, and the merging of shards.

The harness and the packer's command line share this package.
"""
