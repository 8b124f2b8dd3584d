"""Bodies that are not plain JSON: event streams and JSON lines nobody asked for, byte order marks, half characters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.local_server import chat

from restaurant_llm_batch._http.openai_api import read_chat
from restaurant_llm_batch._http.status import Unreadable, decode, parse_body
from restaurant_llm_batch._http.types import HTTPResponse
from restaurant_llm_batch.errors import (
    BackendError,
    PermanentBackendError,
    RateLimited,
    TransientBackendError,
)

USAGE = {"prompt_tokens": 11, "completion_tokens": 5}
TEXT = '{"a": "맛있다 😀"}'


def chunk(delta: Any, end: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "model": "tiny",
        "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
        **more,
    }


def events(*chunks: Any, end: str = "\n\n", done: bool = True) -> str:
    text = "".join(f"data: {json.dumps(one, ensure_ascii=False)}{end}" for one in chunks)
    return text + (f"data: [DONE]{end}" if done else "")


HALVES = [chunk({"role": "assistant", "content": TEXT[:7]}), chunk({"content": TEXT[7:]})]
LAST = {"object": "chat.completion.chunk", "model": "tiny", "choices": [], "usage": USAGE}
STREAMS = {
    "plain": events(*HALVES, chunk({}, "stop"), LAST),
    "crlf": events(*HALVES, chunk({}, "stop"), LAST, end="\r\n\r\n"),
    "cr": events(*HALVES, chunk({}, "stop"), LAST, end="\r\r"),
    "single line ends": events(*HALVES, chunk({}, "stop"), LAST, end="\n"),
    "no space": events(*HALVES, chunk({}, "stop"), LAST).replace("data: ", "data:"),
    "comments": ": processing\n\n"
    + events(*HALVES, chunk({}, "stop"), LAST).replace("\n\n", "\n\n: ping\n\n"),
    "named events": "event: chunk\nid: 1\nretry: 9\n" + events(*HALVES, chunk({}, "stop"), LAST),
    "no end mark": events(*HALVES, chunk({}, "stop"), LAST, done=False),
    "no reason": events(*HALVES, LAST),
    "neither, but whole": events(*HALVES, LAST, done=False),
    "usage in each": events(
        *(one | {"usage": {"prompt_tokens": 11, "completion_tokens": 5}} for one in HALVES)
    ),
    "thinking first": events(
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning": "hm", "content": None}),
        *HALVES,
        chunk({}, "stop"),
        LAST,
    ),
    "whole message": events(chat(TEXT, usage=USAGE)),
    "message in place of delta": events(
        {
            "model": "tiny",
            "choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ),
    "data over lines": "data: "
    + json.dumps(chat(TEXT, usage=USAGE), indent=1).replace("\n", "\ndata: ")
    + "\n\n",
    "last event without line end": events(*HALVES, chunk({}, "stop", usage=USAGE)).rstrip(),
    "JSON lines": "\n".join(json.dumps(one) for one in (*HALVES, chunk({}, "stop"), LAST)),
    "Ollama": "\n".join(
        json.dumps(one)
        for one in (
            {"model": "tiny", "message": {"role": "assistant", "content": TEXT[:9]}, "done": False},
            {"model": "tiny", "message": {"role": "assistant", "content": TEXT[9:]}, "done": False},
            {
                "model": "tiny",
                "message": {"content": ""},
                "done": True,
                "done_reason": "stop",
                "prompt_eval_count": 11,
                "eval_count": 5,
            },
        )
    ),
    "text completions": events(
        {"model": "tiny", "choices": [{"index": 0, "text": TEXT, "finish_reason": "stop"}], "usage": USAGE}
    ),
    "a second choice": events(
        *HALVES, {"choices": [{"index": 1, "delta": {"content": "other"}}]}, chunk({}, "stop"), LAST
    ),
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "marked"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_becomes_the_completion_that_it_carries(name: str, mark: bytes) -> None:
    reply = read_chat(parse_body(mark + STREAMS[name].encode()), "x")
    assert (reply.text, reply.finish_reason, reply.model) == (TEXT, "stop", "tiny")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 5)


def test_a_stream_that_breaks_off_is_cut_off() -> None:
    assert read_chat(parse_body(events(HALVES[0], done=False).encode()), "x").finish_reason == "length"


def test_a_stream_of_thinking_alone_is_no_answer() -> None:
    body = events(chunk({"reasoning_content": '{"a": 1}'}), chunk({}, "length")).encode()
    assert (read_chat(parse_body(body), "x").text, read_chat(parse_body(body), "x").finish_reason) == (
        "",
        "length",
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (events(HALVES[0], {"error": {"message": "overloaded", "code": 503}}), RateLimited),
        (
            'event: error\ndata: {"error": {"message": "broke", "type": "server_error"}}\n\n',
            TransientBackendError,
        ),
        (events(HALVES[0], chunk({}, "network_error")), TransientBackendError),
        (events({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 429}}]}), RateLimited),
        ("data: garbage\n\ndata: more\n\n", PermanentBackendError),
        (": ping\n\n: ping\n\n", TransientBackendError),
        ("data: [DONE]\n\n", PermanentBackendError),
        ("<html>data: x</html>", TransientBackendError),
        ("", TransientBackendError),
    ],
)
def test_a_stream_without_a_completion_says_what_it_is(body: str, kind: type[BackendError]) -> None:
    with pytest.raises(BackendError) as caught:
        read_chat(decode(HTTPResponse(200, {}, body.encode()), "x"), "x")
    assert type(caught.value) is kind


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_body(encoding: str) -> None:
    assert parse_body(json.dumps(chat(TEXT)).encode(encoding)) == chat(TEXT)


def test_half_a_character_is_replaced_and_both_halves_are_joined() -> None:
    body = parse_body(b'{"lone": "a \\ud83d b", "pair": "\\ud83d\\ude00", "key \\udfff": 1}')
    assert body == {"lone": "a \ufffd b", "pair": "😀", "key \ufffd": 1}
    json.dumps(body, ensure_ascii=False).encode()


@given(st.binary() | st.text().map(str.encode) | st.text(alphabet='data: \n\r{}[]"1').map(str.encode))
def test_any_body_is_decoded_or_kept_as_text(body: bytes) -> None:
    value = parse_body(body)
    assert isinstance(value, Unreadable) or value is None or json.dumps(value, default=str)
