"""The pytest plugin: what opens a suites folder, plans its cases, runs them in workers and ends the run.

The modules here are its entry; each folder is one part of the life of a run, see ``docs/architecture.md``.
"""
