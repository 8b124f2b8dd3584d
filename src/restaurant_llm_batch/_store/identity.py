"""Identity of an LLM backend in cache keys: its own fingerprint, or one made of what can be seen of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ..models import LLMRequest

log = logging.getLogger("restaurant_llm_batch")

_SECRET_NAMES = ("key", "token", "secret", "password", "credential", "auth")


def fingerprint_of(llm: object, *, warn: bool = False) -> str:
    """
    Return the name of a backend in cache keys: its `fingerprint`, or else its class and the texts among its attributes.

    Two backends with equal fingerprints share stored replies. Most backends keep the name of their model, their URL and
    the like in attributes, so two that differ in these do not share. Attributes that may be secret, numbers (which may
    be counters) and objects without a fingerprint of their own do not count.

    Args:
        llm: The backend.
        warn: Whether to log a warning if it has no `fingerprint`.
    """
    fingerprint = getattr(llm, "fingerprint", None)
    if isinstance(fingerprint, str) and fingerprint:
        return fingerprint
    kind = type(llm)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if warn and not kind.__module__.startswith(__name__.partition(".")[0] + "."):
        log.warning(
            "%s has no fingerprint, so the store knows its answers from those of another model only if the two differ "
            "in their class or in a text among their attributes; give it one, for example "
            'fingerprint = "my-service my-model"',
            kind.__name__,
        )
    texts = sorted(_texts(llm))
    if not texts:
        return name
    digest = blake2b(digest_size=8)
    for attribute, text in texts:
        digest.update(f"{len(attribute)} {attribute} {len(text)} {text} ".encode("utf-8", "surrogatepass"))
    return f"{name} {digest.hexdigest()}"


def model_fingerprint_of(llm: object) -> str:
    """Return what the answers of a backend have in common with those of the same model at another address."""
    fingerprint = getattr(llm, "model_fingerprint", None)
    return fingerprint if isinstance(fingerprint, str) and fingerprint else fingerprint_of(llm)


@dataclass(slots=True)
class PoolModels:
    """
    What a store knows the models of a pool by.

    Attributes:
        by_endpoint: The fingerprint of each endpoint's model.
        others: Those that differ from the fingerprint of the pool itself.
        outside: Fingerprints that the endpoints have outside of a pool, with their address.
        job_fingerprints: By endpoint, returns the fingerprint under which a job for a request is recorded.
        vain_lookups: Lookups in a row under `outside` that have found nothing.
    """

    by_endpoint: tuple[str, ...]
    others: tuple[str, ...]
    outside: tuple[str, ...]
    job_fingerprints: Mapping[int, Callable[[LLMRequest], str]]
    vain_lookups: int = 0


def models_of(endpoints: Sequence[object], fingerprint: str) -> PoolModels:
    """
    Return what a store knows the models of a pool by.

    Args:
        endpoints: The backends of its endpoints.
        fingerprint: The fingerprint of the pool itself.
    """
    by_endpoint = tuple(model_fingerprint_of(endpoint) for endpoint in endpoints)
    others = tuple(dict.fromkeys(one for one in by_endpoint if one != fingerprint))
    known = {fingerprint, *others}
    outside = (fingerprint_of(endpoint, warn=True) for endpoint in endpoints)
    jobs = {index: getattr(endpoint, "job_fingerprint", None) for index, endpoint in enumerate(endpoints)}
    return PoolModels(
        by_endpoint,
        others,
        tuple(dict.fromkeys(one for one in outside if one not in known)),
        {index: own for index, own in jobs.items() if callable(own)},
    )


def _texts(llm: object) -> Iterator[tuple[str, str]]:
    """Yield the attributes of a backend that may name its model, of the object and of its classes."""
    seen: set[str] = set()
    of_classes = [vars(kind) for kind in type(llm).__mro__[:-1]]
    slots = {name for attributes in of_classes for name in _slots(attributes.get("__slots__", ()))}
    found = {name: getattr(llm, name, None) for name in slots} | getattr(llm, "__dict__", {})
    for attributes in (found, *of_classes):
        for name, value in attributes.items():
            if name in seen or name.startswith("__"):
                continue
            seen.add(name)
            text = value if isinstance(value, str) else getattr(value, "fingerprint", None)
            if isinstance(text, str) and not any(secret in name.lower() for secret in _SECRET_NAMES):
                yield name, text


def _slots(declared: object) -> tuple[str, ...]:
    return (declared,) if isinstance(declared, str) else tuple(declared)  # type: ignore[arg-type]
