"""Measuring a checkpoint on text: sources, windows, scoring, and comparing a subject with its baseline."""
