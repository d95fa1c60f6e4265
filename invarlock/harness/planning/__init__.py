"""Before the first case: what a run needs and does is computed, checked and written down.

Nothing here measures, and nothing here imports PyTorch.
"""
