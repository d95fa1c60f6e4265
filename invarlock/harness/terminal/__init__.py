"""The output for people during a run: progress on the terminal, and log files."""
