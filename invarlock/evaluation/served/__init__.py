"""Evaluation over HTTP: a subject on an OpenAI-compatible server is measured by the server's answers."""
