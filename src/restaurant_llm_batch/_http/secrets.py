"""Keys that do not show: not in a repr, an error, a log or a pickle."""

from __future__ import annotations

import re
from typing import Any, NoReturn, Protocol, TypeAlias

from ..errors import ConfigurationError

_HIDDEN = "***"
_MIN_LENGTH = 4
"""Letters of a key. What is shorter, as ``"any"`` for a service that wants none, is in too many words to be hidden."""
_MASKED = re.compile(r"[^\s'\"]*\*{3,}[^\s'\"]*")
"""What is left of a key that a service has masked itself, as OpenAI does: ``sk-ab*****yz``."""


class _Wrapped(Protocol):
    def get_secret_value(self) -> str: ...


KeyLike: TypeAlias = str | _Wrapped
"""A key as text, or wrapped in something like pydantic's ``SecretStr``."""


class Secret:
    """A key; only `reveal` tells it."""

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
        """Return `text` without the key, and without what a service may have left of it."""
        if len(self._value) >= _MIN_LENGTH:
            text = text.replace(self._value, _HIDDEN)
        return _MASKED.sub(_HIDDEN, text)


def as_secret(value: KeyLike | None, field: str = "api_key") -> Secret | None:
    """
    Return a key that does not show, or None for none.

    Raises:
        ConfigurationError: When it is not text, or cannot be sent in a header.
    """
    if value is None:
        return None
    reveal: Any = getattr(value, "get_secret_value", None)
    text: Any = reveal() if callable(reveal) else value
    if not isinstance(text, str):
        raise ConfigurationError(f"{field} must be a string, not {type(value).__name__}")
    text = text.strip()  # a key read from a file ends with a newline more often than not
    if not text:
        return None
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{field} holds characters that no HTTP header can carry")
    return Secret(text)
