"""
Setting: a field of `BatchSettings` with the arguments that it sets, and the types of its values.

One description serves the environment, ``.env``, a TOML file, the command line and the documentation, so that they
cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from .._config.stopping import Price
from ..tasks._prompts.wording import as_language


@dataclass(frozen=True, slots=True)
class Setting:
    """
    The metadata of a field.

    Attributes:
        sets: The arguments that it sets, as ``target.argument``; see `BatchSettings.arguments`.
        option: Its option on the command line; None for one that is made of its name.
    """

    sets: tuple[str, ...]
    option: str | None = None


def setting(default: Any, sets: str, text: str, *, option: str | None = None, **constraints: Any) -> Any:
    """
    Return the field of a setting.

    Args:
        default: Its value if nothing sets it; None for the default of the argument.
        sets: The arguments that it sets, separated by blanks.
        text: What it means, with units; for documentation, help and `config`.
        option: Its option on the command line.
        constraints: Constraints of pydantic's `Field`.
    """
    field: FieldInfo = Field(default=default, description=text, **constraints)
    field.metadata.append(Setting(tuple(sets.split()), option))
    return field


def setting_of(field: FieldInfo) -> Setting:
    """Return the metadata of a field."""
    return next(one for one in field.metadata if isinstance(one, Setting))


def _read_limit(value: object) -> object:
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "auto":
            return text
        value = int(text) if text.isdecimal() else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("give a whole number of at least 1, or auto")
    return value


def _read_json(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError('give a JSON object, such as {"seed": 7}') from None
    if not isinstance(value, Mapping):  # pydantic reports a ValueError, and lets a TypeError through
        raise ValueError('give a JSON object, such as {"seed": 7}')  # noqa: TRY004
    return dict(value)


def _read_prices(value: object) -> object:
    example = 'give a JSON object of dollars for a million tokens, such as {"gpt-5-mini": [0.25, 2.0]}'
    try:
        prices = _read_json(value)
        assert isinstance(prices, dict)
        return {str(name): _read_price(price) for name, price in prices.items()}
    except Exception as error:
        raise ValueError(f"{example} ({error})") from None


def _read_price(price: object) -> Price:
    if isinstance(price, Price):
        return price
    if isinstance(price, Mapping):
        return Price(**price)
    if isinstance(price, str) or not isinstance(price, Iterable):
        raise ValueError(f"not a price: {price!r}")  # noqa: TRY004
    return Price(*price)


def _read_names(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    names = [str(part).strip() for part in parts] if isinstance(parts, Iterable) else []
    if not any(names):
        raise ValueError("name at least one, with commas between several")
    return tuple(name for name in names if name)


def _read_averages(value: object) -> object:
    return _read_numbers(value, "give a share for each aspect, such as service=0.6,price=0.55")


def _read_shares(value: object) -> object:
    return _read_numbers(value, "give a share for each client, such as shop=3,kiosk=1")


def _read_numbers(value: object, example: str) -> object:
    """Return numbers by name."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _read_json(value)
    elif isinstance(value, str):
        pairs = (part.partition("=") for part in value.split(",") if part.strip())
        value = {name.strip(): share for name, _, share in pairs}
    if not isinstance(value, Mapping) or not value:
        raise ValueError(example)
    if not all(str(name).strip() for name in value):
        raise ValueError(example)
    try:
        return {str(name).strip(): float(share) for name, share in value.items()}
    except (TypeError, ValueError):
        raise ValueError(example) from None


COUNTERS = ("estimate", "tiktoken", "hf", "vllm")
"""Counters of tokens; the two in the middle may have the name of an encoding or a tokenizer after a colon."""


def _read_counter(value: object) -> object:
    text = str(value).strip()
    kind, colon, name = text.partition(":")
    if (
        kind.lower() not in COUNTERS
        or (colon and not name)
        or (name and kind.lower() in ("estimate", "vllm"))
    ):
        raise ValueError("give estimate, tiktoken, tiktoken:o200k_base, hf:Qwen/Qwen2.5-7B-Instruct or vllm")
    return f"{kind.lower()}{colon}{name}"


# A union of number and word would give two messages for one wrong value.
Limit: TypeAlias = Annotated[int | Literal["auto"], BeforeValidator(_read_limit)]
"""A number of calls, or "auto" for an adaptive limit."""
JSONObject: TypeAlias = Annotated[dict[str, Any], NoDecode, BeforeValidator(_read_json)]
"""A JSON object."""
Prices: TypeAlias = Annotated[dict[str, Any], NoDecode, BeforeValidator(_read_prices)]
"""Prices by the model's name: dollars for a million tokens of prompt and completion, and of cached prompt."""
Names: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_names)]
"""Names, with commas between them."""
Language: TypeAlias = Annotated[str, BeforeValidator(as_language)]
"""A language, by a code or a name, or "auto"."""
Plan: TypeAlias = Annotated[Literal["A", "B", "C"], BeforeValidator(lambda value: str(value).upper())]
"""A plan of a vocabulary, in capital or small letters."""
TokenCounterName: TypeAlias = Annotated[str, BeforeValidator(_read_counter)]
"""A counter of tokens, by its name."""
Averages: TypeAlias = Annotated[dict[str, float], NoDecode, BeforeValidator(_read_averages)]
"""Shares by aspect."""
Shares: TypeAlias = Annotated[dict[str, float], NoDecode, BeforeValidator(_read_shares)]
"""Shares by client."""
