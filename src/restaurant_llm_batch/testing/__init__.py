"""Test doubles: fake search and LLM backends that fail on demand; `testing.server` has a fault server."""

from .._schema_answers import answer_from_schema
from .fakes import FakeLLM, FakeSearch

__all__ = ["FakeLLM", "FakeSearch", "answer_from_schema"]
