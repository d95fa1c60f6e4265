"""The GPUs and CPUs of a machine, the memory that a model needs on them, and which process uses which device.

A worker gets its device by a lease, which is a locked file per device.
"""
