"""
Nothing from outside costs more than linear time: every reader of outside text, with texts that are hard to read.

A reader that is not in `READERS` is not tried: add it there.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console
from starlette.requests import Request
from tests.support.growth import assert_linear

from restaurant_llm_batch import errors
from restaurant_llm_batch._http import (
    border,
    error_body,
    event_stream,
    rate_limits,
    retry_after,
    secrets,
    status,
)
from restaurant_llm_batch._http.body import BodyReader
from restaurant_llm_batch._http.classify import service_error
from restaurant_llm_batch._http.openai_api import read_chat
from restaurant_llm_batch._http.types import HTTPResponse, TransportError
from restaurant_llm_batch._llm_response import LLMResponse
from restaurant_llm_batch._nlp import price_words, terms
from restaurant_llm_batch._nlp.sentiment_model import hashes, normal_form
from restaurant_llm_batch._store.keys import request_key
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._text import terminal_text
from restaurant_llm_batch.backends.runpod import _codec as runpod
from restaurant_llm_batch.backends.runpod._health import read_health
from restaurant_llm_batch.backends.vllm._metrics import read_metrics
from restaurant_llm_batch.cli import _tables
from restaurant_llm_batch.integrations._fastapi import request as web
from restaurant_llm_batch.models import Hit, LLMRequest
from restaurant_llm_batch.records import read_items, read_reviews
from restaurant_llm_batch.search import _indexing
from restaurant_llm_batch.search.embedders import api
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder
from restaurant_llm_batch.search.qdrant import _errors as qdrant
from restaurant_llm_batch.tasks import _content, _entries, _json, _labels, _parsing, _replies
from restaurant_llm_batch.tasks._prompts import aspects as aspect_prompts
from restaurant_llm_batch.tasks._prompts import reviews as review_prompts
from restaurant_llm_batch.tasks._prompts import words as word_prompts
from restaurant_llm_batch.tokens import chunking, counting, packing, sentences, tokenizers

SECRET = secrets.Secret("sk-0123456789abcdef")
EMBEDDER = HashingEmbedder()
RATE_HEADERS = [
    f"x-ratelimit-{part}-{of}" for part in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]
Reader = Callable[[str], object]


def answered(text: str, code: int = 200) -> HTTPResponse:
    return HTTPResponse(code, {}, text.encode("utf-8", "replace"))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def dumped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def every(*readers: Reader) -> Reader:
    """Return a reader that gives a text to several ones; errors of this library are answers too."""

    def read(text: str) -> None:
        for reader in readers:
            with suppress(errors.BatchError, TransportError):
                reader(text)

    return read


def compressed(text: str) -> object:
    data = zlib.compress(encoded(text))
    reader = BodyReader(200, {"content-encoding": "deflate"}, 10**9)
    for start in range(0, len(data), 1000):
        list(reader.feed(data[start : start + 1000]))
    return reader.body()


def reply(text: str) -> LLMResponse:
    return LLMResponse(text, "stop", 1, 1)


def an_error(text: str, code: int) -> object:
    return service_error(
        code, text, "x", headers={"location": text, "retry-after": text[:900]}, secret=SECRET
    )


def in_file(name: str, line: Callable[[str], str], *, ratings: bool = False) -> Reader:
    def read(text: str) -> None:
        path = Path(FOLDER[0]) / name
        path.write_text(line(text) + "\n", encoding="utf-8", errors="replace")
        for _ in read_reviews(path, rating_scale=(1, 5) if ratings else None):
            pass
        for _ in read_items(path):
            pass

    return read


def stored(text: str) -> object:
    key = request_key("x", LLMRequest("t", ({"role": "user", "content": text},), max_tokens=5))
    with Store(Path(FOLDER[0]) / "store.db") as store:
        return store.get(key)


def review(text: str) -> object:
    return list(_indexing.read_batches([{"restaurant_id": text, "id": text, "content": text}], 10))


def body_of_request(text: str) -> object:
    scope = {"type": "http", "headers": [(b"accept", encoded(text)[:8000]), (b"x-request-id", encoded(text))]}
    return web.request_id_of(scope), web._qualities(Request(scope).headers["accept"])


def printed(text: str) -> object:
    console = Console(file=io.StringIO(), width=80)
    console.print(_tables.hits_table([Hit(1, text, 0.5, 1)]))
    return terminal_text(text)


READERS: dict[str, Reader] = {
    "http: bodies": every(
        lambda text: status.parse_body(encoded(text)),
        lambda text: status.parse_error_body(encoded(text)),
        lambda text: status.decode(answered(text), "x", SECRET),
        lambda text: status.decode(answered("data: " + text), "x", SECRET),
        lambda text: status.parse_body(encoded(dumped(text))),
    ),
    "http: compressed bodies": every(compressed),
    "http: event streams": every(
        event_stream.join_events,
        event_stream.join_lines,
        event_stream.looks_like_events,
        lambda text: event_stream.join_events("data: " + text),
        lambda text: event_stream.join_events("data: {}\n\n" * len(text)),
    ),
    "http: errors": every(
        *(lambda text, code=code: an_error(text, code) for code in (302, 400, 403, 429, 503))
    ),
    "http: errors in JSON": every(
        lambda text: service_error(
            400, {"error": {"message": text, "code": text, "param": text}}, "x", secret=SECRET
        ),
        lambda text: service_error(500, {"detail": [{"loc": [text], "msg": text}]}, "x", secret=SECRET),
        lambda text: service_error(None, {"error": dumped(dumped(text))}, "x", secret=SECRET),
        lambda text: error_body.read_error("<html>" + text),
        lambda text: error_body.page_text(text),
    ),
    "http: waits": every(
        lambda text: retry_after.retry_after({"retry-after": text, "retry-after-ms": text}),
        retry_after.wait_in_text,
        retry_after.duration,
        lambda text: retry_after.wait_in_body([{"retryDelay": text}]),
        lambda text: rate_limits.read_rate_limits(dict.fromkeys(RATE_HEADERS, text)),
    ),
    "http: secrets": every(
        SECRET.redact,
        secrets.hide_userinfo,
        lambda text: secrets.hide_userinfo("//" + text),
        lambda text: border.leaving(errors.PermanentBackendError(text), "x", SECRET, [SECRET]),
        lambda text: border.leaving(ValueError(text), "x", SECRET),
        lambda text: errors.PermanentBackendError(text).signature,
    ),
    "chat": every(
        lambda text: read_chat({"choices": [{"message": {"content": text}}], "model": text}, "x", SECRET),
        lambda text: read_chat({"choices": [{"message": {"content": [{"text": text}]}}]}, "x", SECRET),
        lambda text: read_chat({"choices": [{"finish_reason": text, "text": text}]}, "x", SECRET),
        lambda text: read_chat({"usage": text, "object": text}, "x", SECRET),
        lambda text: read_chat([text] * 3, "x", SECRET),
    ),
    "runpod": every(
        lambda text: runpod.read_output({"output": text}, "m", 5, SECRET),
        lambda text: runpod.read_output({"output": list(text)}, "m", 5, SECRET),
        lambda text: runpod.read_output({"output": [{"choices": [{"tokens": [text]}]}]}, "m", 5, SECRET),
        lambda text: runpod.read_state(answered(dumped(text)), SECRET),
        lambda text: runpod.read_state(answered(json.dumps({"status": text, "error": text})), SECRET),
        lambda text: runpod.read_submission(answered(json.dumps({"id": text})), SECRET),
        lambda text: runpod.error_of_job(text, SECRET, "x"),
        lambda text: runpod.error_of_job({"error_message": text, "error_type": text}, SECRET, "x"),
        lambda text: runpod.error_of_job("vLLM returned HTTP 400: " + text, SECRET, "x"),
        lambda text: read_health({"workers": {"idle": text}, "jobs": text}),
    ),
    "vllm metrics": every(read_metrics, lambda text: read_metrics("vllm:num_requests_running{" + text)),
    "embeddings": every(
        lambda text: api._vectors({"data": [{"embedding": text}]}, 1),
        lambda text: api._vectors({"data": [{"embedding": [1.5] * len(text)}]}, 1),
        lambda text: api._vectors(
            {"data": [{"embedding": [1.5], "index": i} for i in range(len(text))]}, len(text)
        ),
    ),
    "qdrant": every(
        lambda text: qdrant._body_text(encoded(text)),
        lambda text: qdrant._body_text(encoded(json.dumps({"status": {"error": text}}))),
        lambda text: qdrant.translate(ValueError(text), server="s", collection="c", secret=SECRET),
    ),
    "tasks: JSON": every(
        lambda text: list(_json.json_values(text)),
        lambda text: list(_json.json_values(text, keep_conflicts=True)),
        lambda text: list(_json.json_values('{"a": "' + text)),
        lambda text: list(_json.json_values("[" + text)),
    ),
    "tasks: replies": every(
        _replies.clean,
        _replies.without_thinking,
        lambda text: _replies.is_looping(reply(text)),
        lambda text: list(_replies.values_in(reply(text))),
        lambda text: list(_replies.values_in(reply("```json\n" + text))),
        lambda text: _replies.without_thinking("<think>" + text),
    ),
    "tasks: labels": every(
        lambda text: _labels.read_labels(reply(text), 3),
        lambda text: _labels.read_labels(reply('{"labels": [' + text), 3),
        _labels.read_number,
        _labels.read_label,
    ),
    "tasks: summaries": every(
        lambda text: _parsing.read_overall(reply(text)),
        lambda text: _parsing.read_overall(reply(json.dumps({"overall_summary": text}))),
        lambda text: _parsing.read_texts(reply(text), ("a", "b"), ("a",)),
        lambda text: _parsing.read_texts(reply(json.dumps({"a": text, "b": [text]})), ("a", "b"), ("a",)),
        lambda text: list(_content.bullets_of(text)),
        _content.text_of,
    ),
    "tasks: words": every(
        lambda text: _entries.read_entries("words", reply(text), text),
        lambda text: _entries.read_entries("phrases", reply(json.dumps([text, {"phrase": text}])), text),
        lambda text: _entries.ExampleFinder(text).find(text[:200]),
    ),
    "prompts": every(
        aspect_prompts.quoted,
        aspect_prompts.escaped,
        lambda text: aspect_prompts.reviews_block(text, [Hit(1, text, 0.5, 1)], "ko"),
        lambda text: aspect_prompts.summaries_block({"food": text}, "en"),
        lambda text: review_prompts.line(1, text),
        lambda text: review_prompts.data_line(1, {"content": text}),
        lambda text: review_prompts.comparison(text, "ko"),
        word_prompts.text_block,
    ),
    "tokens": every(
        counting.estimate_tokens,
        tokenizers.replace_surrogates,
        sentences.sentences,
        sentences.sentence_ends,
        packing.truncate_to_half,
        chunking.split_in_two,
        lambda text: chunking.split_text(text, 100),
        lambda text: packing.pack_reviews([text, "맛", text]),
    ),
    "search": every(
        lambda text: EMBEDDER.embed_documents([text]),
        EMBEDDER.embed_query,
        review,
        _indexing.as_number,
        lambda text: _indexing.read_id(text, "x"),
    ),
    "nlp": every(
        price_words.mentions_price,
        terms.terms,
        terms.normalise,
        terms.stem_english,
        normal_form,
        lambda text: hashes(text, "ko"),
    ),
    "store": every(stored),
    "cli: files": every(
        in_file("a.jsonl", lambda text: text),
        in_file("a.jsonl", lambda text: json.dumps({"restaurant_id": 1, "content": text, "category": text})),
        in_file(
            "a.jsonl", lambda text: json.dumps({"restaurant_id": 1, "positive_reviews": text}), ratings=True
        ),
        in_file("a.jsonl", lambda text: '{"restaurant_id": ' + text),
        in_file("a.json", lambda text: '[{"restaurant_id": 1, "content": "' + text),
        in_file("a.json", lambda text: "[" + text),
        in_file("a.csv", lambda text: "restaurant_id,content\n1," + text),
        in_file("a.csv", lambda text: text),
        in_file(
            "a.tsv", lambda text: f"restaurant_id\tcontent\trating\n{text}\t{text}\t{text}", ratings=True
        ),
    ),
    "cli: tables": every(printed),
    "web": every(body_of_request),
}

TEXTS: dict[str, tuple[str, str, str]] = {
    unit: (unit, "", "")
    for unit in (
        "a", "가", "가나다라마바사아자차카타파하", "었했겠", "한a글1 ", " ", "\n", "\r\n\r\n", "\t", "\0", "1", "1,",
        "9.", "-", ".", "*", "***a", "'", '"', '\\"', "\\", "\\u", "\\ud83d", "{", "[", "}", "{}", '{"a":',
        '{"a":[', "[[1],", '{"a": 1} ', "<", "<a", "<script>", "<!--", "<think>", "</think>", "<!---->", "<!-- --> ",
        "<title>", "<head>", "</script ", "<?xml ", "<|im_start|>", "[INST]",
        "［|user|］", "&lt;", "```", "```json\n", "e\u0301\u0316", "\u200d", "😋\u200d", "\u1100\u1161", "\ud800",
        "漢", "％", "data: ", "data: {}\n\n", ": \n", "//a@", "http://", "try again in ", "retry 1 ",
        "exceed context ", "too many requests ", "the model is busy ", "no quota ", "key=", "x=1;q=0.5,",
        "vllm:a{b=\"c\"} 1\n", "- bullet\n", "1. positive\n", "id: 1, label: ", "quota ", "a_", "한국어는 ",
        "great pasta. ",
    )
}  # fmt: skip
for _before in (
    ",",
    "```json",
    "label:",
    "1.",
    "<",
    '"',
    '{"a":',
    "data:",
    "retry after",
    "- ",
    "<think",
    "a=",
    "(",
    "0 ",
):
    TEXTS[f"{_before} and blanks"] = (" ", _before, "")
    TEXTS[f"{_before} and lines"] = ("\n", _before, "x")
TEXTS["an object that is long"] = ('"a": 1, ', "{", '"b": 2}')
TEXTS["a list that is long"] = ("[1, 2], ", "[", "3]")
TEXTS["a text that is quoted"] = ("\\u0041\\\\", '{"a": "', '"}')
TEXTS["a list without an end"] = ('{"id": 1, "label": "positive"}, ', '{"labels": [', "")

LENGTHS = {"tokens": 30_000}
"""Characters of the shorter text; one that fits the token budget of a call is not cut, and costs less."""
FOLDER: list[str] = [""]


@pytest.mark.slow
@pytest.mark.hardening(small=23, full=100_000)
def test_twice_the_text_costs_twice_the_work(trials: int, tmp_path: Path) -> None:
    FOLDER[0] = str(tmp_path)
    pairs = list(itertools.product(TEXTS, READERS))
    if trials < len(pairs):  # each reader in turn
        chosen = random.Random(3)
        pairs = [
            (chosen.choice([*TEXTS]), name) for name in itertools.islice(itertools.cycle(READERS), trials)
        ]
    for text, name in pairs:
        unit, before, behind = TEXTS[text]
        length = LENGTHS.get(name, 3_000 if trials > len(pairs) else 1_000)
        try:
            assert_linear(READERS[name], unit, length, (before, behind))
        except Exception as error:
            error.add_note(f"{name}: {text!r}")
            raise
