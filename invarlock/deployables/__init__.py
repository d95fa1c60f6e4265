"""Deployable subjects: checkpoints that a backend packed, as they would be served."""
