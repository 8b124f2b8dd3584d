"""
Likely answers: what a model would write in the form that a request asks for, in three lengths.

A likely answer is made of the form: every text as long as models write it there, every list with a few elements. What
it says means nothing, but it is written in the language of the answer, so any counter of tokens counts it as it would
count a true one.

Where the constants come from: the shipped sample (50 restaurants, 44 of them English). Texts with a `maxLength` are
much shorter than that, because the forms of the tasks leave room. Mean characters of an answer:

    form                     English: short, likely, long; offline     Korean: short, likely, long; offline
    aspect_summaries           259,   904, 1773;   827                   228,   570, 1063;   601
    aspect_summary              58,   221,  462;   207                    51,   138,  276;   150
    overall_summary             42,   191,  325;   155                    32,   106,  173;   101
    sentiment, each review      29,    34,   41;    34                    28,    33,   41;    33
    review_summary             126,   575,  985;   457                    96,   320,  529;   225
    comparison_summary          45,   194,  328;   159                    35,   109,  176;   108
    strength                    53,   202,  336;   127                    43,   117,  184;    98
    words                      155,  1730, 5852;  1640                   190,  1592, 5200;  1538
    phrases                    117,  1083, 2720;   499                   138,  1016, 2496;   366

"offline" is `OfflineLLM`, which quotes one sentence where a language model writes two. SmolLM2-135M wrote 741 to 1536
characters, 1032 in the mean, in the form aspect_summaries for four English restaurants (237 to 398 of its tokens), and
389 to 1105 in the form aspect_summary, where it often goes on until its grammar ends the text.
"short" is near the smallest that a form allows, which is what `FaultServer` answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from ..models import LLMRequest

Size: TypeAlias = Literal["short", "likely", "long"]
Count: TypeAlias = Callable[[str], int]

_SENTENCE, _FREE_TEXT = 100, 450
"""Characters of an English text without `maxLength`, and of an answer without a form."""
_LONG, _PER_ELEMENT = 50, 80
"""Elements from which on a list may grow with the data, and characters of English data for each of its elements."""
_DENSE = 0.5
"""Characters of a Korean text, by those of an English one that says the same; Chinese and Japanese are as dense."""
_DENSE_LANGUAGES = ("ko", "ja", "zh")
_FORMS_KEPT = 512
_MAX_DEPTH = 8
"""Depth from which on lists are empty: a form may contain itself."""

_ENGLISH = (
    "Guests praise the attentive staff and the fresh dishes, above all the pasta and the grilled fish. Many find the "
    "prices fair for the size of the plates, though some waited long for a table on weekends. The room is warm and "
    "lively, and several would come back for the desserts alone. A few complain about noise near the bar and about a "
    "side dish that arrived cold, but the service made up for it at once. "
)
_KOREAN = (
    "손님들은 직원이 친절하고 음식이 신선하다고 말하며, 특히 파스타와 생선구이를 칭찬합니다. "
    "양을 생각하면 가격이 적당하다는 평이 많지만 주말에는 자리가 날 때까지 오래 기다렸다고 합니다. "
    "분위기는 따뜻하고 활기차며 디저트 때문에 다시 오겠다는 사람도 있습니다. "
    "입구 쪽이 시끄럽고 반찬이 식어서 나왔다는 불만이 조금 있으나 바로 바꾸어 주었다고 합니다. "
)


@dataclass(frozen=True, slots=True)
class _Style:
    """
    How long an answer is written.

    Attributes:
        text: Factor of the likely length of a text.
        elements: Elements of a list whose length is free.
        share: Factor of the likely elements of a long list.
        separators: Separators of its JSON.
        agrees: What stands where a form leaves a choice: true or false, the first or the last of several values.
    """

    text: float
    elements: int
    share: float
    separators: tuple[str, str]
    agrees: bool = True


_STYLES: Mapping[Size, _Style] = {
    "short": _Style(0.12, 1, 0.25, (",", ":"), agrees=False),
    "likely": _Style(1.0, 2, 1.0, (", ", ": ")),
    "long": _Style(1.8, 3, 1.6, (",\n    ", ": ")),
}


class Length(NamedTuple):
    """Tokens of an answer: the range of likely numbers, the most likely one, and the most that its request allows."""

    low: int
    likely: int
    high: int
    most: int


class LikelyAnswers:
    """
    Likely answers to requests. Requests of equal forms share them.

    Args:
        count: Counts the tokens of a text.
    """

    def __init__(self, count: Count) -> None:
        self._count: Count = whole(count)
        # By the identity of the schema, which tasks make once; it is kept, so that no other one takes its place.
        self._forms: dict[tuple[int, int, str, int], _Form] = {}
        self._grows: dict[int, tuple[Any, bool]] = {}

    def length(self, request: LLMRequest) -> Length:
        """Return the likely tokens of the answer to a request."""
        form = self._form(request)
        if form.length is None:
            low, likely, high = (self._count(self._text(form, size)) for size in _STYLES)
            most = form.max_tokens
            # Lists of a fixed length have neither short nor long elements, but the JSON around these varies as much.
            form.length = Length(
                min(most, max(1, min(low, round(0.45 * likely)))),
                min(most, max(1, likely)),
                min(most, max(1, high, round(1.4 * likely))),
                most,
            )
        return form.length

    def text(self, request: LLMRequest, size: Size) -> str:
        """Return a likely answer to a request. One without a form is cut at `max_tokens`; of a form, it is whole."""
        return self._text(self._form(request), size)

    def _form(self, request: LLMRequest) -> _Form:
        schema, language = request.schema, language_of_answer(request)
        data = self._data(request) if schema is not None and self._grows_with_data(schema) else 0
        key = (id(schema), request.max_tokens, language, data)
        found = self._forms.get(key)
        if found is None:
            if len(self._forms) >= _FORMS_KEPT:
                self._forms.clear()
            found = self._forms[key] = _Form(schema, request.max_tokens, language, data)
        return found

    def _text(self, form: _Form, size: Size) -> str:
        text = form.texts.get(size)
        if text is None:
            text = form.texts[size] = self._written(form, _STYLES[size])
        return text

    def _written(self, form: _Form, style: _Style) -> str:
        if form.schema is not None:
            writer = _Writer(style, form.language, form.schema.get("$defs") or {}, form.data)
            return json.dumps(writer.value(form.schema), ensure_ascii=False, separators=style.separators)
        text = _prose(_FREE_TEXT * style.text, form.language)
        tokens = self._count(text)
        return text if tokens <= form.max_tokens else text[: max(1, len(text) * form.max_tokens // tokens)]

    def _data(self, request: LLMRequest) -> int:
        content: object = request.messages[-1].get("content") if request.messages else None
        characters = len(content) if isinstance(content, str) else 0
        each = _PER_ELEMENT * (_DENSE if language_of_answer(request) in _DENSE_LANGUAGES else 1)
        return 1 + round(characters / each)

    def _grows_with_data(self, schema: Mapping[str, Any]) -> bool:
        found = self._grows.get(id(schema))
        if found is None:
            if len(self._grows) >= _FORMS_KEPT:
                self._grows.clear()
            found = self._grows[id(schema)] = (schema, _has_long_list(schema))
        return found[1]


@dataclass(slots=True)
class _Form:
    """
    What a likely answer depends on, and what is known of it already.

    Attributes:
        schema: The JSON Schema; None for free text.
        max_tokens: The most tokens of an answer.
        language: Its language.
        data: Elements that a long list likely has, by the data that the request carries.
        length: Its tokens.
        texts: The answer, by its size.
    """

    schema: Mapping[str, Any] | None
    max_tokens: int
    language: str
    data: int
    length: Length | None = None
    texts: dict[Size, str] = field(default_factory=dict)


def whole(count: Callable[[str], float]) -> Count:
    """Return a counter in whole numbers: one of a user's own may return others."""
    return lambda text: int(count(text))


def language_of_answer(request: LLMRequest) -> str:
    """Return the language of the answer to a request, as its inputs name it, or else that of its last message."""
    named = request.inputs.get("language")
    if isinstance(named, str):
        return named
    text = str(request.messages[-1].get("content") or "")[:200] if request.messages else ""
    return "en" if text.isascii() or not any("가" <= sign <= "힣" for sign in text) else "ko"


def _has_long_list(schema: object) -> bool:
    if isinstance(schema, Mapping):
        if _is_long_list(schema):
            return True
        return any(map(_has_long_list, schema.values()))
    return isinstance(schema, (list, tuple)) and any(map(_has_long_list, schema))


def _is_long_list(schema: Mapping[str, Any]) -> bool:
    most = schema.get("maxItems")
    return (
        schema.get("type") == "array" and isinstance(most, int) and most - schema.get("minItems", 0) >= _LONG
    )


def _prose(characters: float, language: str) -> str:
    dense = language in _DENSE_LANGUAGES
    length = max(1, round(characters * (_DENSE if dense else 1)))
    text = _KOREAN if dense else _ENGLISH
    return (text * (1 + length // len(text)))[:length].strip() or text[0]


def _usual_characters(most: float) -> float:
    """Return the characters of a text that may have `most`: 77 of 300, 168 of 800."""
    return 0.8 * float(most**0.8)


class _Writer:
    """
    Writes values of a JSON Schema.

    Args:
        style: How long they are.
        language: Language of the texts.
        definitions: Schemas that others refer to.
        data: Elements that a long list likely has.
    """

    def __init__(self, style: _Style, language: str, definitions: Mapping[str, Any], data: int) -> None:
        self._style = style
        self._language = language
        self._definitions = definitions
        self._data = data

    def value(self, schema: Mapping[str, Any], index: int = 0, depth: int = 0) -> Any:
        """Return a value; numbers count up with the `index` in their list, as ids do."""
        agrees = self._style.agrees
        if "$ref" in schema:
            return self._referred(str(schema["$ref"]), index, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0 if agrees else -1]
        for word in ("anyOf", "oneOf", "allOf"):
            if schema.get(word):
                return self.value(schema[word][0 if agrees else -1], index, depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):  # ["string", "null"]
            kind = kind[0 if agrees else -1]
        match kind:
            case "object":
                members = schema.get("properties") or {}
                return {name: self.value(part, index, depth + 1) for name, part in members.items()}
            case "array":
                return self._list(schema, depth)
            case "integer" | "number":
                least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
                number = min(least + index, schema.get("maximum", least + index))
                return number if kind == "integer" else float(number)
            case "boolean":
                return agrees
            case "null":
                return None
        return self._string(schema)

    def _referred(self, name: str, index: int, depth: int) -> Any:
        found = self._definitions.get(name.rpartition("/")[2])
        return None if found is None or depth > _MAX_DEPTH else self.value(found, index, depth + 1)

    def _list(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(part, 0, depth + 1) for part in schema["prefixItems"]]
        least = schema.get("minItems", 0)
        if depth > _MAX_DEPTH:
            return []
        usual = self._style.elements
        if _is_long_list(schema):
            usual = max(1, round(self._data * self._style.share))
        length = max(least, min(usual, schema.get("maxItems", usual)))
        return [self.value(schema.get("items") or {}, number, depth + 1) for number in range(length)]

    def _string(self, schema: Mapping[str, Any]) -> str:
        most = schema.get("maxLength")
        usual = _SENTENCE if most is None else _usual_characters(most)
        text = _prose(usual * self._style.text, self._language)
        return text[:most].ljust(schema.get("minLength", 0), ".")
