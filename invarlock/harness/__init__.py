"""The pytest plugin: options, cases, fixtures, and what happens when the session ends."""
