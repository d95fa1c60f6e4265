"""How the outputs of a subject differ from those of its baseline: one module a metric, without PyTorch."""
