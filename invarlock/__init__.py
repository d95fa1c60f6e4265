"""InvarLock: validate edited language-model checkpoints and seal the evidence."""

__version__ = "0.1.0"
