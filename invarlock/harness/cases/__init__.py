"""Running one case in a worker: its device, its subject, its measurement and its files."""
