"""The same command line in the runtime image: what is mounted, which variables are passed, and the start."""
