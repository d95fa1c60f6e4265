"""Evidence packs: ``format`` on disk, ``trust`` in signers, ``verify``, ``build``, and ``runs`` they come from.

A receiver needs this package and the light core only; nothing here imports PyTorch, transformers or pytest.
"""
