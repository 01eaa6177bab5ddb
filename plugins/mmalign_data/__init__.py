"""mmalign_data."""
