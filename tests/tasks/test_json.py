"""The tolerant JSON reader: what is whole is found wherever it stands, in a time that grows with the text."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restaurant_llm_batch.tasks._json import Conflict, CutList, CutObject, decode_whole, json_values

json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
containers = st.lists(json_texts, max_size=4) | st.dictionaries(st.text(), json_texts, max_size=4)


def values(text: str) -> list[Any]:
    return list(json_values(text))


@given(
    containers,
    st.sampled_from(["", "Sure: ", "{see} ", "```json\n", "[1"]),
    st.sampled_from(["", " Bye.", "\n```"]),
)
def test_a_value_is_found_whatever_stands_around_it(value: Any, before: str, after: str) -> None:
    assert value in values(before + json.dumps(value) + after)


@settings(deadline=None)
@given(containers, st.data())
def test_of_a_value_that_is_cut_off_only_what_is_whole_is_read(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    end = data.draw(st.integers(1, max(1, len(text) - 1)))
    cut_off = (found for found in values(text[:end]) if isinstance(found, (CutObject, CutList)))
    for outermost in islice(cut_off, 1):
        assert_part(outermost, value)


def assert_part(part: Any, whole: Any) -> None:
    """Everything in a value that was cut off stands in the original as well, at its place."""
    if part == whole and not isinstance(part, (CutObject, CutList)):
        return
    if isinstance(part, CutObject) and isinstance(whole, dict):
        for name, member in part.items():
            assert_part(member, whole[name])
    elif isinstance(part, CutList) and isinstance(whole, list):
        for member, original in zip(part, whole, strict=False):
            assert_part(member, original)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 'It's good', 'b': None, 'c': True}", {"a": "It's good", "b": None, "c": True}),
        ('{"a": [1, 2,], "b": {},}', {"a": [1, 2], "b": {}}),
        ('{a: 1, "b": positive}', {"a": 1, "b": "positive"}),
        ("{1: 'x', 2: \"y\"}", {"1": "x", "2": "y"}),
        ('{"a": "say "yes" now"}', {"a": 'say "yes" now'}),
        ('{"a": "b" "c": "d"}', {"a": "b", "c": "d"}),
        ("{“a”: “b”}", {"a": "b"}),
        ('{"a": "one\ntwo\tthree"}', {"a": "one\ntwo\tthree"}),
        ('{"a": -1.5e2, "b": 007}', {"a": -150.0, "b": 7}),
        ("{'a': 'x\\u00e9\\n\\'y\\''}", {"a": "xé\n'y'"}),
    ],
)
def test_what_is_nearly_json_is_read(text: str, value: Any) -> None:
    assert values(text) == [value]


def test_whole_values_come_before_those_that_are_cut_off() -> None:
    assert values('{"a": {"b": 1}, "c": "x') == [{"b": 1}, {"a": {"b": 1}}]
    assert isinstance(values("[1, 2")[0], CutList)
    assert values("[1, 2") == [[1]]  # there may have been more digits


def test_a_value_behind_an_error_is_found() -> None:
    assert {"id": 2} in values('{"labels": [{"id": 1} oops, {"id": 2}]}')


def test_a_name_with_two_values_is_a_conflict_only_where_that_matters() -> None:
    text = '{"1": "a", "1": "b", "2": "c", "2": "c"}'

    assert decode_whole(text) == {"1": "b", "2": "c"}
    found = decode_whole(text, keep_conflicts=True)
    assert isinstance(found["1"], Conflict)
    assert found["2"] == "c"
    (broken,) = json_values(text[:-1] + ",}", keep_conflicts=True)
    assert isinstance(broken["1"], Conflict)


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "[",
        '{"a":',
        '"',
        "'",
        '{"',
        "[{",
        '{"a": "',
        "[1,",
        "{a:",
        "[[[]]",
        '{"a": [{"b": "c"},',
        '" "',
        "\\",
    ],
    ids=repr,
)
@pytest.mark.slow  # by default test_linear_work.py looks at this reader too
def test_the_work_grows_with_the_text_and_not_with_its_square(piece: str) -> None:
    """Counted in the reader's steps, which do not depend on how busy the machine is."""
    import restaurant_llm_batch.tasks._json as module

    def steps(length: int) -> int:
        text, count = piece * (length // len(piece)), 0
        skip = module._Reader._skip

        def counting(reader: Any, position: int) -> int:
            nonlocal count
            count += 1
            return skip(reader, position)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module._Reader, "_skip", counting)
            patch.setattr(module, "_EXTRA_BUDGET", 0)
            for _ in json_values(text):
                pass
        return count

    assert steps(16_000) <= 4.5 * steps(4_000) + 100
