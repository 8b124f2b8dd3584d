"""
Cache keys: equal requests to equal backends have equal keys, and share one stored reply.

A key is the same in every process, on every machine and under every Python version. It is a hash, so prompts cannot be
read from it.
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
from ..models import LLMRequest

KEY_SIZE = 16
"""Bytes of a key. Collisions are unlikely even among a billion keys, and an index of short keys is faster to write."""

_FORMAT = b"restaurant_llm_batch question 1"
"""Change this with anything below that changes keys; keys of another format are then not found."""


_pack_double = struct.Struct(">d").pack
_pack_lengths = struct.Struct(">2Q").pack

_WITH_GIL = 2047
"""
Bytes that hashlib hashes without releasing the GIL.

To get it back takes up to 5 ms while another thread works, and hashing a prompt takes 10 microseconds.
"""


def request_key(fingerprint: str, request: LLMRequest) -> bytes:
    """
    Return the cache key of a request.

    The key depends on everything that determines the reply: the backend's fingerprint, the messages, the schema,
    `max_tokens` and the temperature. It does not depend on the order of a schema's keys, nor on the request's task,
    inputs and priority: the model does not see them, so requests of two tasks may share a key.

    Args:
        fingerprint: Identifies the service and the model, without any secret.
        request: The request.

    Raises:
        ConfigurationError: If the request contains values that cannot be sent as JSON.
    """
    try:
        # The length of every part is hashed too, so that no text can imitate the border between two parts.
        schema = b"" if request.schema is None else _canonical_schema(request.schema)
        shared_lengths, shared = _shared_parts(fingerprint, schema, request.max_tokens, request.temperature)
        lengths, parts = [shared_lengths], [shared]
        for message in request.messages:
            role, content = message.get("role"), message.get("content")
            if type(role) is str and type(content) is str and len(message) == 2:
                # A prompt may quote a reply, which may contain half a surrogate pair.
                begin, end = role.encode("utf-8", "surrogatepass"), content.encode("utf-8", "surrogatepass")
            else:
                # A user's own task may send other messages: with names, or with contents of several parts.
                begin, end = b"\xff", _canonical(message)  # not UTF-8, so not a role
            lengths.append(_pack_lengths(len(begin), len(end)))
            parts += begin, end
    except (TypeError, ValueError, AttributeError, RecursionError, struct.error) as error:
        raise ConfigurationError(
            f"the request of task {request.task!r} cannot be stored: {error}; messages must be like "
            '{"role": "user", "content": "text"}, schema a JSON Schema, max_tokens and temperature numbers'
        ) from error
    framed = b"".join(lengths + parts)
    digest = sha256(framed[:_WITH_GIL])
    for start in range(_WITH_GIL, len(framed), _WITH_GIL):
        digest.update(framed[start : start + _WITH_GIL])
    return digest.digest()[:KEY_SIZE]


@lru_cache(maxsize=64, typed=True)
def _shared_parts(
    fingerprint: str, schema: bytes, max_tokens: int, temperature: float
) -> tuple[bytes, bytes]:
    """Return the parts that all requests of a task share: their lengths, and the parts themselves."""
    numbers = b"%d %b" % (index(max_tokens), _pack_double(temperature + 0.0))  # -0.0 is 0.0
    parts = (_FORMAT, _utf8(fingerprint), schema, numbers)
    return struct.pack(f">{len(parts)}Q", *map(len, parts)), b"".join(parts)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _canonical_schema(schema: Mapping[str, Any]) -> bytes:
    # Every request carries one of a few schemas, and serializing one takes longer than all the rest. The bytes of
    # marshal are only a cache key within this process: they do not get into a stored key, so they may differ by
    # version.
    try:
        marshalled = marshal.dumps(cast("dict[str, Any]", schema), 2)
    except ValueError:  # a mapping that is not a dict
        return _canonical(schema)
    return _canonical_marshalled(marshalled)


@lru_cache(maxsize=256)
def _canonical_marshalled(marshalled: bytes) -> bytes:
    return _canonical(marshal.loads(marshalled))  # nosec B302 (bytes that `_canonical_schema` has just written)


def _canonical(value: Any) -> bytes:
    """Serialize to canonical JSON: keys sorted, one spelling of every value."""
    # Not `ensure_ascii`: it escapes the two halves of a surrogate pair like the character itself.
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
        raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"keys of a JSON object must be strings, got {name!r}")
    return name
