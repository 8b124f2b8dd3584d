"""Test doubles: fake search and LLM backends that fail on demand; `testing.server` has a fault server."""

from .fakes import FakeLLM, FakeSearch, answer_from_schema

__all__ = ["FakeLLM", "FakeSearch", "answer_from_schema"]
