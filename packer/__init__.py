"""Evidence packs: checksums, manifest, signature and trust; building, verifying and inspecting them.

A receiver needs this package and the light core only; nothing here imports PyTorch, transformers or pytest.
"""
