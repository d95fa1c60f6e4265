"""Running the same command line in the runtime image: mounts, environment variables, and the start."""
