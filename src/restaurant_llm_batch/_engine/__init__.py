"""The engine: policy flows decide, drivers wait. Nothing here is public."""
