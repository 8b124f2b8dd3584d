"""Several endpoints as one LLM backend."""
