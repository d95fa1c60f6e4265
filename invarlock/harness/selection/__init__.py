"""Which cases a command line selects: by marks, by scenario ids, or for the user's own checkpoints.

The suites folder is found here too, and every name on the command line is checked.
"""
