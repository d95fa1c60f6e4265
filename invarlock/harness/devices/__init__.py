"""The GPUs and CPUs of a machine, how much memory a model needs on them, and which process computes on which.

A worker gets its device by a lease: a locked file per device.
"""
