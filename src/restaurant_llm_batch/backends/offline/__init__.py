"""OfflineLLM: summaries and labels extracted from the reviews themselves, without a model."""
