"""Ending a case, a worker or a session early: the time limit of a case, and Ctrl-C."""
