"""Faults: deliberate defects put into a copy of a checkpoint, to see whether they are caught."""
