"""The engine over HTTP: a subject that an OpenAI-compatible server serves is measured by its answers."""
