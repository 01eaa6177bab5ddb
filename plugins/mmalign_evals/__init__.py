"""mmalign_evals."""
