"""Running pytest's command line in the runtime image: mounts, environment variables, and starting the container."""
