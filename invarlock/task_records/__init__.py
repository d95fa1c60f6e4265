"""Results of evaluation tools, sample by sample, in one form: read, paired, and without prompts or answers."""
