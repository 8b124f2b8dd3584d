from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.offline_requests import (
    ASPECTS,
    KOREAN,
    LLM,
    SEQUOIA,
    about,
    about_all,
    answer,
    holds,
    overall,
    sample,
)

from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.errors import PermanentBackendError
from restaurant_llm_batch.models import LLMRequest

UNPRINTABLE = "맛\x00있어요 \ud800 good\u202e food\r\n\x1b[31m끝"


class TestHostileText:
    @pytest.mark.parametrize("contents", [(), ("",), (" \n\t ",), ("\x00\x07",), ("\u200d\u2060" * 20,)])
    def test_without_any_text_the_summary_says_so_and_rests_on_nothing(self, contents: Sequence[str]) -> None:
        line = "The reviews hardly mention the food."
        nothing = {"summary": line, "bullets": [], "evidence": []}
        assert answer(about("food", *contents)) == nothing
        got = answer(about_all({"food": contents}))
        assert got == {"categories": {"food": nothing}, "overall_summary": line}

    def test_without_any_aspect_there_is_still_an_answer(self) -> None:
        assert answer(about_all({})) == {"categories": {}, "overall_summary": "…"}
        assert answer(overall({})) == {"overall_summary": "…"}

    def test_a_review_of_emoji_is_a_review(self) -> None:
        assert answer(about("kids", "", "😋👍", language="ko")) == {
            "summary": "😋👍",
            "bullets": [],
            "evidence": [2],
        }

    def test_nothing_unprintable_comes_back(self) -> None:
        text = LLM.complete(about_all({"food": (UNPRINTABLE,)})).text
        assert text.encode("utf-8")
        for part in answer(about_all({"food": (UNPRINTABLE,)}))["categories"].values():
            assert all(c.isprintable() for c in part["summary"])

    @pytest.mark.parametrize("content", ["....", "-" * 50, ".. --", "...!?"])
    def test_a_review_of_signs_is_a_review(self, content: str) -> None:
        assert answer(about("kids", content))["summary"] == content

    @pytest.mark.slow
    @settings(max_examples=examples(150), deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from([*ASPECTS, "분위기", "kids", ""]),
            st.lists(st.text() | st.sampled_from([*SEQUOIA, *KOREAN]), max_size=6),
            max_size=4,
        ),
        st.sampled_from(["ko", "en", ""]),
    )
    def test_any_text_gives_a_valid_answer(self, reviews: dict[str, list[str]], language: str) -> None:
        got = answer(about_all(reviews, language))
        assert list(got["categories"]) == list(reviews)
        assert got["overall_summary"]
        for aspect, part in got["categories"].items():
            assert part["summary"].strip()
            assert all(1 <= number <= len(reviews[aspect]) for number in part["evidence"])
            if part["evidence"]:
                assert holds(reviews[aspect][part["evidence"][0] - 1], part["summary"])
            else:
                assert ("언급한" if language == "ko" else "hardly mention") in part["summary"]
                assert part["bullets"] == []

    @pytest.mark.slow
    @settings(max_examples=examples(100), deadline=None)
    @given(st.dictionaries(st.text(), st.text(), max_size=5))
    def test_any_summaries_give_an_overall_summary(self, summaries: dict[str, str]) -> None:
        assert answer(overall(summaries))["overall_summary"].strip()


class TestSameAnswer:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "seed", ["0", *(pytest.param(seed, marks=pytest.mark.slow) for seed in ("1", "4242"))]
    )
    def test_the_answer_does_not_depend_on_the_seed_of_the_hashes(self, seed: str) -> None:
        script = (
            "import json, sys\n"
            "from restaurant_llm_batch.backends.offline.llm import OfflineLLM\n"
            "from restaurant_llm_batch.models import LLMRequest\n"
            "llm = OfflineLLM()\n"
            "for inputs in json.load(sys.stdin):\n"
            "    print(json.dumps(llm.complete(LLMRequest('aspect_summaries', (), inputs=inputs)).text))\n"
        )
        requests = [about_all(dict.fromkeys(ASPECTS, contents), lang) for lang, contents in sample()]
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps([dict(request.inputs) for request in requests]),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert [json.loads(line) for line in done.stdout.splitlines()] == [
            LLM.complete(request).text for request in requests
        ]

    def test_what_was_asked_before_changes_nothing(self) -> None:
        request = about_all(dict.fromkeys(ASPECTS, SEQUOIA))
        first = OfflineLLM().complete(request)
        LLM.complete(about("food", *KOREAN, language="ko"))
        assert LLM.complete(request) == LLM.complete(request) == first

    @pytest.mark.anyio
    async def test_the_awaited_answer_is_the_same(self) -> None:
        for request in (about("food", *SEQUOIA), about_all({"price": KOREAN}, "ko"), overall({"a": "Good."})):
            assert await LLM.acomplete(request) == LLM.complete(request)

    @pytest.mark.anyio
    async def test_the_awaited_error_is_the_same(self) -> None:
        with pytest.raises(PermanentBackendError, match="'translate'"):
            await LLM.acomplete(LLMRequest("translate", ()))
