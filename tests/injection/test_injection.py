"""Whatever the reviews say, the question is the same: only what stands in its holes differs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.injection.corpus import CONTENTS, ENTRIES, Entry, hostile
from tests.injection.doubles import saying
from tests.injection.jobs import JOBS, PLAIN, RESTAURANT, asked, with_entries
from tests.injection.prompt import HOLE, read_prompt, roles, user
from tests.support.examples import examples

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch._values import composed
from restaurant_llm_batch.tasks._asking import _REPAIR, MAX_QUOTE_LENGTH
from restaurant_llm_batch.tokens.packing import TRUNCATION_MARK

each_job = pytest.mark.parametrize("job", JOBS)

ANSWER = "plain answer"


def plain(count: int) -> list[str]:
    """Give reviews that ask for nothing, each of its own."""
    return [f"plain {number}" for number in range(count)]


@cache
def usual(job: str, count: int, language: str = "ko") -> Sequence[LLMRequest]:
    """Return what is asked about reviews that ask for nothing."""
    return asked(job, plain(count), saying(ANSWER), language=language)


def put(data: Any, swapped: Mapping[str, str]) -> Any:
    """Return data with some of its texts exchanged."""
    if isinstance(data, Mapping):
        return {name: swapped.get(text, text) for name, text in data.items()}
    return swapped.get(data, data)


def assert_same_but_for(
    swapped: Mapping[str, str], expected: Sequence[LLMRequest], actual: Sequence[LLMRequest]
) -> None:
    """Everything that is not data is equal to the byte; the data are the texts, in their places."""
    assert len(actual) == len(expected)
    for request, harmless in zip(actual, expected, strict=True):
        assert roles(request) == ["system", "user"]
        assert request.messages[0] == harmless.messages[0]
        assert (request.task, request.schema) == (harmless.task, harmless.schema)
        assert (request.max_tokens, request.temperature) == (harmless.max_tokens, harmless.temperature)
        prompt, plain_prompt = read_prompt(user(request)), read_prompt(user(harmless))
        assert prompt.skeleton == plain_prompt.skeleton
        assert prompt.data == [put(data, swapped) for data in plain_prompt.data]
        assert RESTAURANT not in str(request.messages)


@with_entries("job", JOBS)
@pytest.mark.sample(40)
def test_a_review_changes_the_request_nowhere_but_in_its_own_place(job: str, entry: Entry) -> None:
    texts = ["plain 0", entry.content, "plain 2"]
    requests = asked(job, texts, saying(ANSWER), language=entry.language)

    assert_same_but_for({"plain 1": composed(entry.content)}, usual(job, 3, entry.language), requests)


@pytest.mark.parametrize(
    "job",
    JOBS,
)
def test_all_data_stand_in_a_block_that_the_instructions_call_data(job: str) -> None:
    for request in usual(job, 2):
        inside = ""
        for line in read_prompt(user(request)).skeleton:
            if re.fullmatch("</?[a-z]+>", line):
                inside = "" if inside else line
                assert line in request.messages[0]["content"]
            elif line.endswith(HOLE):
                assert inside, line


@each_job
@settings(max_examples=examples(15), deadline=None)
@given(texts=st.lists(hostile.filter(str.strip), min_size=1, max_size=6))
def test_many_of_them_stay_in_their_places_wherever_they_stand(job: str, texts: list[str]) -> None:
    swapped = dict(zip(plain(len(texts)), map(composed, texts), strict=True))

    assert_same_but_for(swapped, usual(job, len(texts)), asked(job, texts, saying(ANSWER)))


@each_job
@pytest.mark.sample(3)
def test_all_of_them_at_once_stay_in_their_places(job: str) -> None:
    swapped = dict(zip(plain(len(CONTENTS)), map(composed, CONTENTS), strict=True))

    assert_same_but_for(swapped, usual(job, len(CONTENTS)), asked(job, CONTENTS, saying(ANSWER)))


@each_job
@pytest.mark.sample(3)
def test_where_reviews_choose_the_language_they_choose_between_two_instructions(job: str) -> None:
    ours = [request.messages[0] for language in ("ko", "en") for request in usual(job, 3, language)]

    for content in CONTENTS:
        for request in asked(job, [content], saying(ANSWER), language="auto"):
            assert request.messages[0] in ours


@pytest.mark.sample(2)
@pytest.mark.parametrize("job", ["reviews", "sentiment", "strengths", "comparison"])
def test_a_review_that_is_cut_to_its_batch_keeps_its_line(job: str) -> None:
    shown = [
        text
        for request in asked(job, CONTENTS, saying(ANSWER), max_tokens_per_batch=900)
        if request.task != "merge_summaries"
        for text in read_prompt(user(request)).texts
    ]
    cut = [text for text in shown if text.endswith(TRUNCATION_MARK)]

    assert len(cut) >= 3
    assert all(
        any(whole.startswith(text.removesuffix(TRUNCATION_MARK)) for whole in map(composed, CONTENTS))
        for text in cut
    )
    assert set(shown) - set(cut) <= {*map(composed, CONTENTS), *PLAIN, ANSWER}


@with_entries("job", JOBS, every=6)
def test_what_a_model_was_made_to_say_is_data_too_where_it_is_read_again(job: str, entry: Entry) -> None:
    """Summaries go into merging prompts, overall prompts and comparisons."""
    requests = asked(job, plain(3), saying(entry.content))

    assert_same_but_for({ANSWER: entry.content.strip()}, usual(job, 3), requests)


@pytest.mark.sample(4)
@with_entries("job", ["reviews"], every=6)
def test_summaries_of_batches_are_merged_as_data(job: str, entry: Entry) -> None:
    fields: dict[str, Any] = {"max_tokens_per_batch": 600, "max_tokens": 50}
    texts = ["국물이 진하고 면이 쫄깃해요. " * 12] * 8
    requests = asked(job, texts, saying(entry.content), **fields)
    merging = [request for request in requests if request.task == "merge_summaries"]

    assert len(requests) - len(merging) > 1
    assert merging
    for request in merging:
        prompt = read_prompt(user(request))
        assert roles(request) == ["system", "user"]
        assert prompt.numbers == list(range(1, len(prompt.data) + 1))
        assert all(set(data) == set(FIELDS) for data in prompt.data)
        assert set(prompt.texts) == {entry.content.strip()}


FIELDS = ("positive_summary", "negative_summary", "overall_summary")


def unreadable(text: str) -> Callable[[LLMRequest], str]:
    """Return a model that answers with prose around a text, and properly when it is asked again."""
    return lambda request: saying(ANSWER)(request) if request.task == "repair" else f"{{ {text}"


@with_entries("job", [name for name, job in JOBS.items() if job.repairs], every=6)
def test_the_repair_quotes_the_answer_as_the_models_own_words_and_nowhere_else(
    job: str, entry: Entry
) -> None:
    requests = asked(job, plain(2), unreadable(entry.content))
    repairs = [request for request in requests if request.task == "repair"]
    if len(repairs) < len(usual(job, 2)):
        assert "{" in entry.content  # the review holds an answer, which is read wherever it stands
        return

    assert_same_but_for({}, usual(job, 2), [request for request in requests if request.task != "repair"])
    for repair, first in zip(repairs, usual(job, 2), strict=True):
        assert roles(repair) == ["system", "user", "assistant", "user"]
        assert repair.messages[:2] == first.messages
        assert repair.schema == first.schema
        assert RESTAURANT not in str(repair.messages)
        assert len(repair.messages[2]["content"]) <= 6 * MAX_QUOTE_LENGTH
        assert_only_the_reason(repair.messages[3]["content"])


def assert_only_the_reason(told: str) -> None:
    """The second question is a sentence of ours with the parser's complaint in it."""
    ours = re.escape(_REPAIR["ko"]).replace(re.escape("{error}"), r"the answer [A-Za-z0-9_ ':,.()-]{1,120}")
    assert re.fullmatch(ours, told), told


@pytest.mark.sample(18)
@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.aim == "the model's own answer"])
@each_job
def test_an_answer_that_reviews_dictate_changes_no_later_request_but_in_its_data(
    job: str, entry: Entry
) -> None:
    instructions = [request.messages[0] for request in usual(job, 2)]
    requests = asked(job, [entry.content, "plain"], lambda request: entry.content)

    for request in requests:
        assert set(roles(request)) <= {"system", "user", "assistant"}
        assert request.messages[0] in instructions
        read_prompt(user(request))
