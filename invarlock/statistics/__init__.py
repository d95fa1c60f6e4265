"""Statistics that give the same digits on every platform."""
