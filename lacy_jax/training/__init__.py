"""Pretraining: state, step, loop, checkpoints. One jitted function per step, over plain pytrees."""
