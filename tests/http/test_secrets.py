"""A key is redacted wherever it stands in a text, at a cost that grows with the text's length."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import assert_linear

from restaurant_llm_batch._http.secrets import Secret

KEY = "sk-live-0123456789abcdef"


@pytest.mark.parametrize("unit", ["a", "*", "a*", "***", "a***", "*** ", KEY, f"{KEY} ", "'", '"a***b" '])
@pytest.mark.slow  # by default test_linear_work.py looks at this reader too
def test_the_work_for_a_page_grows_with_its_length(unit: str) -> None:
    assert_linear(Secret(KEY).redact, unit, 20_000)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Incorrect API key provided: {KEY}.", "Incorrect API key provided: ***"),
        ("Incorrect API key provided: sk-li****************cdef.", "Incorrect API key provided: ***"),
        (f"'{KEY}' and \"{KEY}\"", "'***' and \"***\""),
        ("five *** hotel", "five *** hotel"),
        ("sk-a***b sk-c****d", "*** ***"),
        ("no key here, 2 ** 3", "no key here, 2 ** 3"),
        ("", ""),
    ],
)
def test_a_key_is_hidden_whether_it_is_whole_or_masked(text: str, shown: str) -> None:
    assert Secret(KEY).redact(text) == shown


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_key_never_stands_in_what_is_shown(before: str, behind: str) -> None:
    assert KEY not in Secret(KEY).redact(f"{before}{KEY}{behind}")


def test_a_key_is_in_no_repr_and_no_pickle() -> None:
    assert KEY not in repr(Secret(KEY))
    with pytest.raises(TypeError, match="keys are not pickled"):
        pickle.dumps(Secret(KEY))
