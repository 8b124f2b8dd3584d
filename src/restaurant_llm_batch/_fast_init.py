"""Fast `__init__` of frozen dataclasses: sets their fields in a half to a third of the time."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def fast_init(frozen: C) -> C:
    """
    Give a frozen dataclass an `__init__` that does what its own does, faster. Return the class.

    Its own calls `object.__setattr__` for each field, which is nearly all the time that it takes. This one makes the
    object one of a subclass that is not frozen, sets its fields as those of any object, and makes it one of the class
    again. For classes of which thousands of objects are made a second.

    Args:
        frozen: A dataclass with ``frozen=True, slots=True``.

    Raises:
        TypeError: It has no slots, or a field is not among the parameters, or a keyword only.
    """
    of_class = fields(frozen)
    if "__slots__" not in vars(frozen) or not all(field.init and not field.kw_only for field in of_class):
        raise TypeError(f"{frozen.__name__} must have slots, and all of its fields as positional parameters")
    unfrozen = type(
        frozen.__name__,
        (frozen,),
        # Both, or neither is faster.
        {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__},
    )
    init: Any = vars(frozen)["__init__"]
    names = ", ".join(field.name for field in of_class)
    made = {field.name: field.default_factory for field in of_class if field.default_factory is not MISSING}
    defaults = dict(
        zip(reversed([field.name for field in of_class]), reversed(init.__defaults__ or ()), strict=False)
    )
    scope: dict[str, Any] = {
        "_frozen": frozen,
        "_unfrozen": unfrozen,
        "_init": init,
        "_set_class": vars(object)["__class__"].__set__,
        "_to_make": next((defaults[name] for name in made), None),  # the same for all fields
        **{f"_make_{name}": factory for name, factory in made.items()},
    }
    lines = [
        f"def _with({', '.join(scope)}):",
        f"  def __init__(self, {names}):",
        "    if self.__class__ is not _frozen:",  # of a subclass, which may have fields and slots of its own
        f"        return _init(self, {names})",
        "    _set_class(self, _unfrozen)",
        *(f"    if {name} is _to_make: {name} = _make_{name}()" for name in made),
        *(f"    self.{field.name} = {field.name}" for field in of_class),
        "    self.__class__ = _frozen",
        "    self.__post_init__()" if hasattr(frozen, "__post_init__") else "",
        "  return __init__",
    ]
    # Among the names of the class's module, where its annotations are looked up.
    found: dict[str, Any] = {}
    exec("\n".join(lines), init.__globals__, found)  # nosec B102 (the names of fields, as `dataclass` does it)
    fast: Any = found["_with"](**scope)
    for name in ("__defaults__", "__annotations__", "__qualname__", "__module__"):
        setattr(fast, name, getattr(init, name))
    frozen.__init__ = fast  # type: ignore[misc]
    return frozen
