"""Offline LLM backend: `OfflineLLM` answers the tasks by extractive summarization and a small linear classifier."""
