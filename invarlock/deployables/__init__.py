"""Deployable subjects: checkpoints packed by a backend as they would be served."""
