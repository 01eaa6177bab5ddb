"""The one training loop: configuration, roles, steps, checkpoints and run folders."""
