"""Selecting the cases of a command line: by marks, by scenario ids, or for the user's own checkpoints.

This package also finds the suites folder and checks every name on the command line.
"""
