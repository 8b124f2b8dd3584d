"""
The key of a question: equal keys mean that one answer serves both.

A key is the same in every process, on every machine and under every Python version. It is a hash, so no
prompt can be read from it.
"""

from __future__ import annotations

import json
import marshal
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from operator import index
from typing import Any, cast

from ..errors import ConfigurationError
from ..models import LLMRequest, Message

KEY_SIZE = 16
"""Bytes of a key: a billion questions share none by chance, and an index of short keys is faster to write to."""

_FORMAT = b"restaurant_llm_batch question 1"
"""To be changed with anything below: keys of another format are then simply not found."""


def request_key(fingerprint: str, request: LLMRequest) -> bytes:
    """
    Return the key of a question to a model.

    What determines an answer counts: who is asked, the messages, the schema, the longest answer and the
    temperature. The order of a schema's keys does not, nor do the task's name, the inputs and the priority: a
    model never sees them, so two tasks that ask the same are asking one question.

    Args:
        fingerprint: Names the service and the model, without any secret.
        request: The question.

    Raises:
        ConfigurationError: When the request holds what cannot be sent as JSON.
    """
    try:
        schema = b"" if request.schema is None else _canonical_schema(request.schema)
        numbers = b"%d %b" % (
            index(request.max_tokens),
            struct.pack(">d", request.temperature + 0.0),
        )  # -0.0 is 0.0
        # Every part goes with its length, so that no text can look like the border between two.
        parts = [_FORMAT, _utf8(fingerprint), schema, numbers]
        for message in request.messages:
            parts += _message_parts(message)
    except (TypeError, ValueError, AttributeError, RecursionError, struct.error) as error:
        raise ConfigurationError(
            f"the request of task {request.task!r} cannot be kept in a store: {error}; write messages as "
            '{"role": ..., "content": text}, schema as JSON Schema, max_tokens and temperature as numbers'
        ) from error
    framed = [struct.pack(f">{len(parts)}Q", *map(len, parts)), *parts]
    return sha256(b"".join(framed)).digest()[:KEY_SIZE]


def _message_parts(message: Message) -> tuple[bytes, bytes]:
    if len(message) == 2:
        role, content = message.get("role"), message.get("content")
        if type(role) is str and type(content) is str:
            return _utf8(role), _utf8(content)
    # A user's own task may send more than we do: names, or contents of several parts.
    return b"\xff", _canonical(message)  # no role is written like that


def _utf8(text: str) -> bytes:
    # A model's answer, asked about again, may hold half a surrogate pair.
    return text.encode("utf-8", "surrogatepass")


def _canonical_schema(schema: Mapping[str, Any]) -> bytes:
    # The same few schemas come with every request, and writing one out takes longer than all the rest. The
    # bytes of marshal only recognise a schema: they never get into a key, so they may differ by version.
    try:
        recognised = marshal.dumps(cast("dict[str, Any]", schema), 2)
    except ValueError:  # a mapping that is no dict
        return _canonical(schema)
    return _canonical_marshalled(recognised)


@lru_cache(maxsize=256)
def _canonical_marshalled(recognised: bytes) -> bytes:
    return _canonical(marshal.loads(recognised))  # our own bytes, of a moment ago


def _canonical(value: Any) -> bytes:
    """Write JSON in one way only."""
    # Not `ensure_ascii`: its escapes write two halves of a pair as they write the character.
    return _utf8("".join(_pieces(value)))


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, str) or value is None or isinstance(value, bool | int | float):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, Mapping):
        yield "{"
        for name in sorted(value, key=_name):
            yield json.dumps(_name(name), ensure_ascii=False) + ":"
            yield from _pieces(value[name])
            yield ","
        yield "}"
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        yield "["
        for part in value:
            yield from _pieces(part)
            yield ","
        yield "]"
    else:
        raise TypeError(f"{type(value).__name__} is no JSON")


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a JSON object's names are strings, got {name!r}")
    return name
