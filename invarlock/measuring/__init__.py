"""The measurements of guards on tensors: one module per guard. ``invarlock.guards`` judges them."""
