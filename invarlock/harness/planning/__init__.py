"""Planning before the first case: what a run needs and does is computed, checked and recorded.

Nothing here measures, and nothing here imports PyTorch.
"""
