"""The cases of a run as a command line selects them: marks, scenario ids, and checkpoints that the user brings.

The suites folder is found here too, and every name on the command line is checked.
"""
