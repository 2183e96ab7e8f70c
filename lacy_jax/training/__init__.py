"""Pretraining: state, step, loop, checkpoints. One jitted function a step, over plain pytrees."""
