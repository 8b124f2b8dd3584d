"""Texts of strangers at the borders of the process: nothing that a terminal, a log or a reader of lines would obey."""

from __future__ import annotations

import json
import logging
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from restaurant_llm_batch import BatchRunner, errors
from restaurant_llm_batch._text import (
    MAX_CELL,
    MAX_MESSAGE,
    error_text,
    json_line,
    message_text,
    terminal_text,
)
from restaurant_llm_batch.cli import _tables
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._output import JSONLWriter
from restaurant_llm_batch.cli._sources import NamedItems
from restaurant_llm_batch.integrations._fastapi.serialize import as_line
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.outcomes import Failure
from restaurant_llm_batch.tasks._common import describe_error
from restaurant_llm_batch.tasks._prompts.aspects import quoted
from restaurant_llm_batch.testing import FakeLLM
from tests.support.growth import assert_linear

NASTY = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear the screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "hyperlink": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "C1 escape": "\x9b31mred \x9d0;owned\x9c",
    "device control": "\x1bP+q\x1b\\ \x90x\x9c",
    "overwrite": "harmless\rowned   ",
    "backspace": "abc\b\b\bowned",
    "bell": "\a\a\a",
    "forged line": "ok\n2026-01-01 00:00:00 ERROR root: owned",
    "forged line, other ends": "a\r\nb\x0bc\x0cd\x1ce\x1df\x1eg\x85h\u2028i\u2029j",
    "reversed": "\u202egnp.exe\u202c \u2066x\u2069 \u200fy \u061cz",
    "invisible": "a\u200bb\u2060c\ufeffd\u00ade",
    "tags": "".join(chr(0xE0000 + ord(sign)) for sign in "hidden"),
    "nothing": "\x00",
    "delete": "a\x7fb",
    "half an emoji": "\ud83d and \udc4d",
    "path": "../../etc/passwd\x00.txt",
    "formula": '=HYPERLINK("http://evil.example")',
    "markup": "[bold red]x[/] :smile: [link=http://evil.example]y[/link] <b>&amp;",
    "format": "%s %d {0} {x} %(y)s",
    "long": "x" * 1_000_000,
    "long and odd": "\x1b\n\u202e\ud800" * 100_000,
}
FORBIDDEN = frozenset(
    map(
        chr,
        (
            *(*range(0x20), *range(0x7F, 0xA0)),  # controls
            *(0x2028, 0x2029),  # line separators
            *(0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # directions
            0xFEFF,
        ),
    )
)

each_nasty = pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)


def failure(text: str) -> Failure:
    return Failure(text[:500], RuntimeError(text), "llm", attempts=2)


def printed(renderable: Any) -> str:
    console = Console(width=200, force_terminal=False, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


class Raising(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


ONE_LINE: dict[str, Callable[[str], str]] = {
    "message": message_text,
    "an error of ours": lambda text: str(errors.PermanentBackendError(text)),
    "an error of a backend, pickled": lambda text: str(
        pickle.loads(pickle.dumps(errors.RateLimited(text, status=429)))
    ),
    "an unreadable reply": lambda text: str(errors.OutputInvalid(f"the model said {text}")),
    "a foreign error in a result": lambda text: describe_error(RuntimeError(text)),
    "a failure, printed": lambda text: str(failure(text)),
    "a foreign error": lambda text: error_text(KeyError(text)),
    "a cell": terminal_text,
    "a line of JSON": lambda text: json_line({"name": text}).decode().removesuffix("\n"),
    "a line of the service": lambda text: as_line({"name": text}).decode().removesuffix("\n"),
    "a review in a prompt": lambda text: (
        quoted(text)
        .replace("\u202e", "")
        .replace("\ufeff", "")
        .translate(dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x61C, 0x200E, 0x200F]))
    ),
}
"""Borders at which a text becomes a part of one line. Signs of direction are left to the model in prompts."""


@each_nasty
@pytest.mark.parametrize("border", ONE_LINE.values(), ids=ONE_LINE)
@pytest.mark.sample(20)
def test_no_sign_is_obeyed_and_no_line_ends(border: Callable[[str], str], text: str) -> None:
    shown = border(text)

    assert not FORBIDDEN & set(shown)
    assert len(shown.splitlines()) <= 1
    if (
        border is not ONE_LINE["a review in a prompt"]
    ):  # `clean` replaces half an emoji where a request is sent
        shown.encode()


@each_nasty
@pytest.mark.sample(6)
def test_json_keeps_its_meaning(text: str) -> None:
    whole = text.encode("utf-8", "replace").decode()

    assert json.loads(json_line({"name": text})) == {"name": whole}
    assert json.loads(as_line({"name": text})) == {"name": whole}


def test_a_number_that_json_does_not_have_is_null() -> None:
    value = {"a": [float("nan"), (float("inf"), 1.5)], "b": -float("inf"), "c": "NaN"}

    assert json_line(value) == b'{"a": [null, [null, 1.5]], "b": null, "c": "NaN"}\n'
    assert as_line({"a": float("nan")}) == b'{"a":null}\n'


@each_nasty
def test_messages_and_cells_have_a_greatest_length(text: str) -> None:
    assert len(str(errors.BatchError(text))) <= 6 * MAX_MESSAGE  # an escape has up to 6 signs
    assert len(error_text(RuntimeError(text))) <= 6 * MAX_MESSAGE
    assert len(terminal_text(text)) <= MAX_CELL


def test_the_end_of_a_long_message_is_kept_because_it_says_what_to_do() -> None:
    message = str(
        errors.ConfigurationError(f"limit must be a number, got {'x' * 10**6!r}; for example limit=10")
    )

    assert message.startswith("limit must be a number, got 'xxx")
    assert message.endswith("; for example limit=10")
    assert len(message) <= MAX_MESSAGE
    assert str(errors.ConfigurationError(message)) == message


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"]), max_size=50))
def test_what_is_no_control_stays_in_a_message(text: str) -> None:
    assert message_text(text) == text


@pytest.mark.parametrize(
    "text", ["맛있어요 👨\u200d👩\u200d👧 ❤\ufe0f", "café — “x”", "한글 \u3000 넓은 칸", "\U0001f44d🏽"]
)
def test_emoji_and_marks_stay_in_messages_and_json(text: str) -> None:
    assert message_text(text) == text
    assert json_line(text).decode() == f'"{text}"\n'


def test_an_error_whose_message_cannot_be_shown_is_named() -> None:
    assert error_text(Raising()) == "Raising: (its message cannot be shown)"
    assert describe_error(Raising()) == "Raising: (its message cannot be shown)"


@pytest.mark.parametrize("unit", ["a", "\x1b", "\n", "\ud800", "\u202e", "\x85", " ", "é"])
@pytest.mark.parametrize("border", [message_text, terminal_text, json_line, as_line])
@pytest.mark.slow
def test_a_border_takes_time_in_proportion_to_the_text(border: Callable[[str], object], unit: str) -> None:
    assert_linear(border, unit, 50_000)


# Where they are used


@each_nasty
@pytest.mark.sample(6)
def test_tables_of_the_command_line_show_no_sign_that_is_obeyed(text: str) -> None:
    source = NamedItems(label=text, ids=[text], names={text: text})
    shown = printed(_tables.failures_table([failure(text)], source))
    shown += (
        printed(_tables.name_cell(source, text))
        + printed(_tables.summary(text[:5000], 1))
        + printed(_tables.failed(text[:5000]))
    )
    shown += printed(_tables.labelled({text: _tables.summary("x", 1)}))

    assert not FORBIDDEN - {"\n"} & set(shown)


@pytest.mark.parametrize("name", [name for name in NASTY if "long" not in name])
@pytest.mark.sample(1)
def test_the_command_line_prints_no_sign_that_is_obeyed(name: str, tmp_path: Path) -> None:
    text = NASTY[name]
    reviews = tmp_path / "reviews.jsonl"
    line = {
        "restaurant_id": text,
        "name": text,
        "reviews": [{"review_id": text, "content": f"맛있어요 {text}"}],
    }
    reviews.write_text(json.dumps(line) + "\n")
    said = ""
    for words in (
        ["sentiment", reviews, "-o", "-"],
        ["search", reviews, "--restaurant", text, "맛있어요", text],
        ["sentiment", reviews, "--restaurants", "nobody"],
        ["summarize", f"{tmp_path}/{text}".replace("\0", "").encode("utf-8", "replace").decode()],
    ):
        result = CliRunner().invoke(build(), [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        said += result.output

    assert not FORBIDDEN - {"\n"} & set(said)
    assert "\n2026-01-01" not in said


@each_nasty
@pytest.mark.sample(6)
def test_a_file_of_results_has_one_line_for_each_record(text: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with path.open("wb") as file:
        writer = JSONLWriter(file)
        for number in range(3):
            writer.write({"restaurant_id": number, "name": text, text[:50]: text[:50]})

    written = path.read_text("utf-8")
    assert len(written.splitlines()) == written.count("\n") == 3
    assert not FORBIDDEN - {"\n"} & set(written)


@each_nasty
@pytest.mark.sample(2)
def test_the_log_of_the_service_has_one_line_for_each_record(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm = FakeLLM(fault=lambda request, tried: errors.PermanentBackendError(text))
    app = FastAPI()
    app.include_router(batch_router(BatchRunner(llm=llm)))
    body = {"restaurants": [{"restaurant_id": text[:200], "reviews": [{"content": "a"}]}]}
    whole = "".join(sign for sign in text[:200] if unicodedata.category(sign) != "Cs") or "x"
    body["restaurants"][0]["restaurant_id"] = whole
    with caplog.at_level(logging.DEBUG, "restaurant_llm_batch"), TestClient(app) as client:
        client.post("/api/v1/sentiment/analyze/batch", json=body, headers={"X-Request-Id": "trace"})

    records = [record.getMessage() for record in caplog.records if record.name == "restaurant_llm_batch"]
    assert records
    for message in records:
        assert len(message.splitlines()) == 1
        assert not FORBIDDEN & set(message)
