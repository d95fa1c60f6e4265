"""What guards measure, on tensors: one module a guard. What follows from it is judged in ``invarlock.measuring``."""
