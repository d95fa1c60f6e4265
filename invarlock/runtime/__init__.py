"""The execution environment of a run: containers, determinism, and provenance of source and environment."""
