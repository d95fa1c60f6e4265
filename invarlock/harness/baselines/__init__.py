"""Baseline reports, null runs and the presets derived from them, each made once and shared by all workers.

This package also compares the results of an earlier session with the plan, and reuses those that match.
"""
