"""The pytest plugin: it opens a suites folder, plans its cases, runs them in workers and finishes the run.

The modules here are the plugin's entry points; each folder is one stage of a run (see ``docs/architecture.md``).
"""
