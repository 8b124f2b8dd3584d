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


class HiddenHeaders(dict[str, str]):
    """The headers of a request; its repr hides their values, since error trackers show the repr of local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"

    __str__ = __repr__
    __sentry_repr__ = __repr__
    """Sentry's name for what it shows in place of a mapping's items."""


def redact_headers(text: str, headers: Mapping[str, str]) -> str:
    """Replace in `text` the keys that a request's headers carry."""
    for name, value in headers.items():
        if name.lower() in _KEY_HEADERS:
            text = Secret(value.rpartition(" ")[2]).redact(text)
    return text


def is_free_of(error: BaseException, *secrets: Secret | None) -> bool:
    """Return whether neither a secret nor the password of a URL stands in the texts of an error and of its causes."""
    for cause in causes(error):
        text = _text_of(cause)
        if hide_userinfo(text) != text or any(one is not None and one.stands_in(text) for one in secrets):
            return False
    return True


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and all that caused it, at most `_MOST_CAUSES`."""
    found: list[BaseException] = []
    pending: list[Any] = [error]
    while pending and len(found) < _MOST_CAUSES:
        one = pending.pop()
        if isinstance(one, BaseException) and not any(one is other for other in found):
            found.append(one)
            pending += [one.__context__, one.__cause__, getattr(one, "source", None)]
            if isinstance(one, BaseExceptionGroup):
                pending += one.exceptions
    return found


def _text_of(error: BaseException) -> str:
    try:
        return f"{error} {error!r} {getattr(error, '__notes__', '')}"
    except Exception:  # nobody else can show it either
        return ""


_MOST_CAUSES = 50


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

    def stands_in(self, text: str) -> bool:
        """Return whether the key stands in `text`."""
        return len(self._value) >= _MIN_LENGTH and self._value in text

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
