"""
Unsupported request fields: recognized in errors, and left out or renamed in later requests of the same backend.

Reasoning models refuse ``temperature``, newer models ``max_tokens``, older ones ``response_format``, strict servers the
sampling parameters that vLLM needs. `refused_fields` finds the names in an error, and `LearnedFields` changes a
backend's requests accordingly:

| field | then |
|---|---|
| `max_tokens`, `max_completion_tokens` | renamed to the other |
| `response_format` | ``json_schema`` -> ``json_object`` -> left out; the prompt then holds the schema |
| `temperature`, `priority`, sampling parameters | left out |
| any other | an error, since leaving it out would change what the user asked and pays for |

A request is repeated only if a lesson changes it, and each lesson changes it once, so there is no loop. If the repeated
request fails for good as well, and no request has succeeded with the lesson yet, the lesson is dropped.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import PermanentBackendError
from .error_body import ServiceError

T = TypeVar("T")

log = logging.getLogger("restaurant_llm_batch")

MAX_REPEATS = 12
"""Most requests of one call that lessons may cause; more than there are lessons."""

_TOKENS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_OPTIONAL = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
"""Fields that may be left out: the answer is still the one that was asked for."""
_LEARNABLE = (*_TOKENS, "response_format", *sorted(_OPTIONAL))
_NAMED = {
    name: re.compile(rf"(?<![\w.-])['\"`]?{name.replace('_', '_?')}(?![\w-])", re.IGNORECASE)
    for name in _LEARNABLE
}
_RESPONSE_FORMAT = re.compile(
    r"response[ _]format|json[ _](?:schema|object|mode)|structured (?:outputs?|generation)"
    r"|(?:guided|constrained) (?:decoding|generation)|\bgrammars?\b",
    re.IGNORECASE,
)
_OTHER_FORMATS = re.compile(
    r"(?:must|should|has to|can only) be (?:one of )?\W{0,3}(?:text|json_object|json_schema)\b", re.IGNORECASE
)
"""Says which forms a service knows in place of the one that it was sent (LM Studio, pydantic)."""

_UNSUPPORTED_CODES = re.compile(
    r"unsupported|unknownparameter|unknownfield|unrecognized|extraforbidden|unexpectedkeyword|notsupported"
)
_UNSUPPORTED_WORDS = re.compile(
    r"unsupported|unrecogni[sz]ed|(?:not|n't|never)(?: \w+)? (?:support|allow|permit|accept|available|recogni[sz]e)"
    r"|(?:cannot|can't|may not|must not) (?:be )?(?:set|use|specif)|not (?:applicable|compatible|implemented|enabled)"
    r"|incompatible|unimplemented|disabled|enabled only|does(?: not|n't) have|invalid for (?:this|the) model"
    r"|requires? (?:a newer|\w+ to be)|too many states"
    r"|unavailable|unknown (?:\w+ )?(?:parameter|argument|field|name|key|property)|cannot find field"
    r"|extra (?:inputs?|fields?|keys?|parameters?)|extra_forbidden|additional propert"
    r"|unexpected (?:\w+ )?(?:parameter|argument|field|property|key)|deprecated"
    r"|only (?:the )?(?:default|\S+ is (?:allowed|supported))|cannot (?:both )?be (?:set|used|specified|provided)"
    r"|no such (?:parameter|field|argument)|(?:must|should) be (?:omitted|removed|unset|left out)"
    r"|(?:must|has to|can only|may only) (?:be )?(?:set to |equal(?: to)? )?1(?:\.0)?(?!\.?\d)",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"at most|at least|between|less than|greater than|maximum value|minimum value|out of range"
    r"|too (?:large|small|high|low)"
    r"|must be (?:positive|in|<|>|a )|exceed|>=|<=",
    re.IGNORECASE,
)
_QUOTED_SENTENCE = re.compile(r"(?<!\w)(['\"])[^'\"]*\s[^'\"]*\1")
"""Text in quotation marks that is no name: an error may quote the prompt."""
_STATUSES = frozenset({400, 404, 422})


def refused_fields(status: int, said: ServiceError) -> tuple[str, ...]:
    """
    Return the fields that an error says the service does not support; only fields that `LearnedFields` can change.

    A value out of range is no refused field: the user has to know about it.
    """
    if status not in _STATUSES or said.is_page:
        return ()
    if _OTHER_FORMATS.search(said.text) and _RESPONSE_FORMAT.search(f"{said.text} {' '.join(said.fields)}"):
        return ("response_format",)
    text = _QUOTED_SENTENCE.sub("", said.text)
    squeezed = ["".join(filter(str.isalnum, code)).lower() for code in said.codes]
    by_code = any(_UNSUPPORTED_CODES.search(code) for code in squeezed)
    by_words = _UNSUPPORTED_WORDS.search(text) is not None
    if not (by_code or by_words) or (not by_code and _OUT_OF_RANGE.search(text)):
        return ()
    located = [said.param.replace("[", ".").split(".")[0], *said.fields]
    named = tuple(dict.fromkeys(name for name in located if name in _LEARNABLE))
    if named:
        return named
    found = [(match.start(), name) for name in _LEARNABLE if (match := _NAMED[name].search(text))]
    if found:
        # The first field only, unless the message lists several: later ones are usually advice ("use ... instead").
        if "both" in text:  # "temperature and top_p cannot both be specified"
            return (max(found)[1],)
        first, name = min(found)
        listed = {name for start, name in found if _is_list(text[first:start])}
        return tuple(sorted({name} | listed))
    return ("response_format",) if _RESPONSE_FORMAT.search(text) else ()


def _is_list(between: str) -> bool:
    """Return whether the text from one name to another is a list of names: "top_k, min_p and seed"."""
    words = re.findall(r"\w+", between)
    return ". " not in between and all(word in _LEARNABLE or word == "and" or "_" in word for word in words)


class LearnedFields:
    """
    Fields that a backend's service does not support. Thread-safe; one object per backend.

    Args:
        backend: The backend's name in log messages.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._lessons: Mapping[
            str, int
        ] = {}  # replaced, never changed; for response_format the number of steps
        self._confirmed: frozenset[str] = frozenset()

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._backend,))

    def request(self, body: dict[str, Any]) -> LearningRequest:
        """Return a request with a body; it is repeated when a refusal teaches something."""
        return LearningRequest(self, body)

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a request body as the service supports it; `body` itself if nothing was learned."""
        lessons = self._lessons
        return _changed(body, lessons) if lessons else body

    def learn(self, error: PermanentBackendError, body: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
        """
        Learn from a refused request.

        Args:
            error: The error.
            body: The request body before `apply`.
            sent: The request body after `apply`, as it was refused.

        Returns:
            Whether the request is worth repeating, because `apply` now returns another body than `sent`.
        """
        refused = [name for name in error.refused_fields if name in sent]
        if not refused:
            return False
        with self._lock:
            lessons = dict(self._lessons)
            for name in refused:
                _add(lessons, name, sent)
            changed = _changed(body, lessons)
            if changed == sent or _has_lost_limit(sent, changed):
                return False
            if lessons != self._lessons:
                self._lessons = lessons
                log.warning(
                    "%s does not support %s, by its error of status %s; later requests are sent without, or in "
                    "another form",
                    self._backend,
                    ", ".join(refused),
                    error.status,  # not its message, which has not passed the border
                )
        return True

    def confirm(self) -> None:
        """Keep what was learned, because a request has succeeded with it."""
        with self._lock:
            self._confirmed = self._confirmed | self._lessons.keys()

    def withdraw(self) -> None:
        """Drop what no request has succeeded with, because a repeated request failed for good as well."""
        with self._lock:
            self._lessons = {name: steps for name, steps in self._lessons.items() if name in self._confirmed}


class LearningRequest:
    """
    A request that is sent again if its refusal shows which fields to leave out. It uses up no attempt of the runner.

        request = learned.request(body)
        while True:
            try:
                reply = send(request.body)
            except PermanentBackendError as error:
                if not request.is_repeated_after(error):
                    raise
            else:
                return request.accepted(reply)

    Attributes:
        body: The body to send.
    """

    __slots__ = ("_learned", "_original", "_repeats", "body")

    def __init__(self, learned: LearnedFields, body: dict[str, Any]) -> None:
        self._learned = learned
        self._original = body
        self._repeats = 0
        self.body: dict[str, Any] = learned.apply(body)

    def is_repeated_after(self, error: PermanentBackendError) -> bool:
        """Return whether to send `body`, which has changed, again."""
        if self._repeats < MAX_REPEATS and self._learned.learn(error, self._original, self.body):
            self._repeats += 1
            self.body = self._learned.apply(self._original)
            return True
        if self._repeats and type(error) is PermanentBackendError:
            self._learned.withdraw()
        return False

    def accepted(self, reply: T) -> T:
        """Return the reply, and keep what this request has taught."""
        if self._repeats:
            self._learned.confirm()
        return reply


def _add(lessons: dict[str, int], name: str, sent: Mapping[str, Any]) -> None:
    if name == "response_format":
        form = sent[name]
        kind = form.get("type") if isinstance(form, Mapping) else None
        lessons[name] = max(lessons.get(name, 0), 1 if kind == "json_schema" else 2)
    elif name in _TOKENS:
        if _TOKENS[name] not in lessons:  # if both names are refused, there is none left
            lessons[name] = 1
    else:
        lessons[name] = 1


def _changed(body: Mapping[str, Any], lessons: Mapping[str, int]) -> dict[str, Any]:
    changed = dict(body)
    for name, steps in lessons.items():
        if name not in changed:
            continue
        value = changed.pop(name)
        if name in _TOKENS:
            changed.setdefault(_TOKENS[name], value)
        elif name == "response_format":
            kind = value.get("type") if isinstance(value, Mapping) else None
            if kind == "json_schema":
                changed["messages"] = _with_schema_of(changed["messages"], value)
            if steps == 1:
                changed[name] = {"type": "json_object"}
    return changed


def _has_lost_limit(sent: Mapping[str, Any], changed: Mapping[str, Any]) -> bool:
    return any(name in sent for name in _TOKENS) and not any(name in changed for name in _TOKENS)


def _with_schema_of(messages: Any, form: Mapping[str, Any]) -> Any:
    """Return messages that state the schema of a ``response_format``, which the request no longer carries."""
    described = form.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    return messages if schema is None or not isinstance(messages, list) else with_schema(messages, schema)


def with_schema(messages: list[Any], schema: Mapping[str, Any]) -> list[Any]:
    """Return messages that state the form of the answer, for a service without structured output."""
    text = f"The JSON form of the answer, as JSON Schema: {json.dumps(schema, ensure_ascii=False)}"
    if messages and messages[0].get("role") == "system" and isinstance(messages[0].get("content"), str):
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
