"""Batch runner: applies a task to many items with LLM and search backends, within limits."""

from .runner import BatchRunner

__all__ = ["BatchRunner"]
