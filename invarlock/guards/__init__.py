"""What follows from the measurements of each guard: one module a guard, without PyTorch."""
