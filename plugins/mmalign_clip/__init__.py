"""mmalign_clip."""
