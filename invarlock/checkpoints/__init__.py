"""Checkpoint folders as files: digests, pins, module families, reading and rewriting safetensors."""
