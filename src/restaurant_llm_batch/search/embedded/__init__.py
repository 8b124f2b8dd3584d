"""Embedded search: `EmbeddedSearch` over Qdrant Edge, in process, without a server."""
