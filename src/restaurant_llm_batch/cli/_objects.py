"""Objects of the user's own code, named as ``module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .._values import place_of
from ..errors import BatchError, ConfigurationError


def is_object_name(text: str) -> bool:
    """Return whether a text is of the form ``module:name``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def import_object(text: str, what: str) -> Any:
    """
    Import an object of the user's code; modules of the working folder are found.

    Args:
        text: The object, as ``module:name``.
        what: The option or argument, for messages.

    Raises:
        ConfigurationError: There is no such module or object, or the module cannot be imported.
    """
    if not is_object_name(text):
        raise ConfigurationError(f"{what} must be module:name, got {text!r}; for example my_tasks:Complaints")
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"{what} {text}: {module} needs {error.name}, which is not installed"
            ) from error
        raise ConfigurationError(
            f"{what} {text}: there is no module {module!r} here; run the command in the folder of {module}.py"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"{what} {text}: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{what} {text}: {module} has no {name}")
        found = getattr(found, part)
    return found


def make_object(text: str, what: str) -> Any:
    """Import an object, and call it if it is a class."""
    found = import_object(text, what)
    if not isinstance(found, type):
        return found
    if issubclass(found, BaseModel):
        raise ConfigurationError(
            f"{what} {text}: {found.__name__} is a pydantic model, the form of an answer; name what asks for it, such "
            f"as a generator function with `yield from ask({found.__name__}, ...)`"
        )
    try:
        return found()
    except TypeError as error:
        raise ConfigurationError(
            f"{what} {text}: {found.__name__} needs arguments ({error}); name an object that has them, such as "
            f"my_object = {found.__name__}(...) in its module"
        ) from error
    except Exception as error:
        raise not_made(text, what, error) from error


def not_made(text: str, what: str, error: Exception) -> Exception:
    """Return the error of a class or a function of the user's that raised one; that of the library unchanged."""
    if isinstance(error, BatchError):
        return error
    place = place_of(error)
    at = f" (at {place})" if place else ""
    return ConfigurationError(f"{what} {text} failed: {type(error).__name__}: {error}{at}")
