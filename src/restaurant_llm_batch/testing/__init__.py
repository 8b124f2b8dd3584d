"""Doubles to test your own code with: a search and a model that answer without either, and fail on demand."""

from .fakes import FakeLLM, FakeSearch, answer_from_schema

__all__ = ["FakeLLM", "FakeSearch", "answer_from_schema"]
