"""Reading and pairing per-sample results of evaluation tools in a common form, without prompts or answers."""
