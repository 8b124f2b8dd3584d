"""Ray: what `RayBatch` is made of."""
