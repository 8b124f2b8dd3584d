"""API keys as secrets: redacted from reprs, errors and logs, and never pickled."""

from __future__ import annotations

import re
from typing import Any, NoReturn, Protocol, TypeAlias

from ..errors import ConfigurationError

_HIDDEN = "***"
_MIN_LENGTH = 4
"""Characters of the shortest key that is redacted; ``"any"``, for a service without keys, occurs in ordinary words."""
_MASKED = re.compile(r"[^\s'\"]*\*{3,}[^\s'\"]*")
"""A key that the service itself has masked, such as OpenAI's ``sk-ab*****yz``."""


class _Wrapped(Protocol):
    def get_secret_value(self) -> str: ...


KeyLike: TypeAlias = str | _Wrapped
"""A key as text, or wrapped in something like pydantic's ``SecretStr``."""


class Secret:
    """An API key; only `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the key."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_HIDDEN!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled; make the backend in the process that uses it")

    def redact(self, text: str) -> str:
        """Replace the key in `text`, and any partly masked key, by ``***``."""
        if len(self._value) >= _MIN_LENGTH:
            text = text.replace(self._value, _HIDDEN)
        return _MASKED.sub(_HIDDEN, text)


def as_secret(value: KeyLike | None, field: str = "api_key") -> Secret | None:
    """
    Return a key as a `Secret`, or None if it is None or empty.

    Raises:
        ConfigurationError: If it is not text, or cannot be sent in a header.
    """
    if value is None:
        return None
    reveal: Any = getattr(value, "get_secret_value", None)
    text: Any = reveal() if callable(reveal) else value
    if not isinstance(text, str):
        raise ConfigurationError(f"{field} must be a string, not {type(value).__name__}")
    text = text.strip()  # a key read from a file usually ends with a newline
    if not text:
        return None
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{field} holds characters that no HTTP header can carry")
    return Secret(text)
