"""Training: one step of all units (engine), the loop around it, and what that needs.

Batches (feeds), optimizers, schedules, checkpoints, captured steps on a GPU, recomputation, and
the bytes a step saves. Every random draw and the order of every sum decide what a run learns:
a change of one makes all records those of other runs.
"""
