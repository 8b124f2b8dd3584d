"""
Recipes: backends, searches and embedders are pickled as their class and arguments, and made again from these.

What an object has opened (clients, locks, caches) belongs to its process. So do its keys: a key that came from the
environment is read from the environment there, and one that was passed is never pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError
from .secrets import hide_userinfo

_KEY = "api_key"
_HIDDEN_USERINFO = hide_userinfo("//user:password@")


class NotPickled(ConfigurationError, TypeError):
    """A `TypeError` too, as pickle raises for other objects that cannot be pickled."""


def arguments_of(names: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the arguments of a constructor that are pickled: True in place of a key, and no password in a URL.

    Args:
        names: The constructor's local variables, before its first statement: ``locals()``.
    """
    kept = {name: _plain(value) for name, value in names.items() if name not in ("self", "__class__", _KEY)}
    if names.get(_KEY) is not None:
        kept[_KEY] = True
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, MappingProxyType):
        return dict(value)
    return hide_userinfo(value) if isinstance(value, str) else value


class PickledAsRecipe:
    """
    A base class of objects that are pickled as their class and arguments.

    A constructor begins with ``self._made_with = arguments_of(locals())``.
    """

    _made_with: dict[str, Any]
    _key_variable = ""
    """Environment variable from which the key is read; "" if there is none."""
    _open_arguments: tuple[str, ...] = ("client", "async_client")
    """Arguments that are open in this process, such as clients."""

    def __reduce__(self) -> tuple[Any, ...]:
        kind, arguments = type(self), self._made_with
        owner = next(one for one in kind.__mro__ if "__init__" in vars(one))
        if PickledAsRecipe not in owner.__bases__:
            raise self._not_pickled("its class has a constructor of its own; give it a __reduce__")
        if arguments.get(_KEY):
            instead = (
                f"set {self._key_variable} where it is used and leave api_key out"
                if self._key_variable
                else "read it there"
            )
            raise self._not_pickled(f"it was given its key, and keys are never pickled; {instead}")
        for name, value in arguments.items():
            if value is None:
                continue
            if name in self._open_arguments:
                raise self._not_pickled(f"its {name} is open in this process; name the service instead")
            if isinstance(value, str) and _HIDDEN_USERINFO in value:
                raise self._not_pickled(f"its {name} holds a password, and passwords are never pickled")
        return _made_again, (kind, arguments)

    def _not_pickled(self, reason: str) -> NotPickled:
        return NotPickled(
            f"this {type(self).__name__} cannot be pickled: {reason}, or pass a function that makes it"
        )


def _made_again(kind: type[Any], arguments: Mapping[str, Any]) -> Any:
    return kind(**arguments)
