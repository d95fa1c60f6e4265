"""Baseline reports, null runs and the presets derived from them: made once and shared by all workers.

Results of an earlier session are compared with the plan here, and reused if they match it.
"""
