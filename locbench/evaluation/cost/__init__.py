"""What it costs to train: parameters, multiply-adds, and the memory held for the backward pass."""
