"""Qdrant search backend: `QdrantSearch` over REST, gRPC or qdrant-client's local mode."""
