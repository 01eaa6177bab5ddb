"""Examples, batches, image reading and collation: what objectives and backbones share."""
