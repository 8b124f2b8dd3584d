"""API keys as secrets: redacted from reprs, errors and logs, and never pickled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol, TypeAlias

from ..errors import ConfigurationError

_HIDDEN = "***"
_MIN_LENGTH = 4
"""Characters of the shortest key that is redacted; ``"any"``, for a service without keys, occurs in ordinary words."""
_STARS = re.compile(r"\*{3,}")
"""The middle of a key that the service itself has masked, such as OpenAI's ``sk-ab*****yz``."""
_BEFORE = re.compile(r"[^\s'\"]{0,64}\Z")
_BEHIND = re.compile(r"[^\s'\"]{0,64}")
_NEIGHBOURS = 64
"""Characters on each side of the stars that may belong to the key; a bound, so that the work is linear."""


_USERINFO = re.compile(r"//[^/@\s'\"]{1,400}@")
"""The user and password of a URL, such as a proxy's."""


def hide_userinfo(text: str) -> str:
    """Replace the user and password of each URL in `text` by ``***``."""
    return _USERINFO.sub(f"//{_HIDDEN}@", text) if "@" in text else text


_KEY_HEADERS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key"})


def redact_headers(text: str, headers: Mapping[str, str]) -> str:
    """Replace in `text` the keys that a request's headers carry."""
    for name, value in headers.items():
        if name.lower() in _KEY_HEADERS:
            text = Secret(value.rpartition(" ")[2]).redact(text)
    return text


def is_free_of(error: BaseException, secret: Secret | None) -> bool:
    """Return whether neither a key nor the password of a URL stands in the texts of an error and of its causes."""
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            break
        text = f"{cause} {cause!r}"
        if hide_userinfo(text) != text or (secret is not None and secret.reveal() in text):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


_MOST_CAUSES = 10


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
        return _without_masked(text) if _HIDDEN in text else text


def _without_masked(text: str) -> str:
    parts: list[str] = []
    done = 0
    for stars in _STARS.finditer(text):
        if stars.start() < done:
            continue  # part of the key before
        before = _BEFORE.search(text[max(done, stars.start() - _NEIGHBOURS) : stars.start()])
        behind = _BEHIND.match(text, stars.end())
        start = stars.start() - (len(before[0]) if before else 0)
        parts += text[done:start], _HIDDEN
        done = behind.end() if behind else stars.end()
    return "".join([*parts, text[done:]])


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
