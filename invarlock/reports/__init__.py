"""The report's shape: raw measurements, what is derived from them, and checking that it was."""
