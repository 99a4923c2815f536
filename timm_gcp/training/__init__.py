"""Training and evaluation: options, the stages of the preparation, the loop, checkpoints and results."""
