"""Blocks, optimizers, the training loop, averages and checkpoints; knows no model and no store."""
