"""What a person reads while a run goes on: the progress on the terminal, and the log files."""
