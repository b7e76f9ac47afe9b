"""Training: the local step (engine), the loop around it, optimizers, schedules, checkpoints."""
