"""The parts of `QdrantSearch`."""
