"""After the last case: the verdict, the summaries and the evidence pack."""
