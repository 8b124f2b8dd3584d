"""Replies as models write them: thinking is removed, half emojis are replaced, loops and full contexts are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import LLMRequest, LLMResponse, errors
from restaurant_llm_batch.tasks._replies import (
    clean,
    is_context_full,
    is_looping,
    more_room_helps,
    values_in,
    without_thinking,
)

ANSWER = '{"a": 1}'
DRAFT = '{"a": 2}'


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}</think>{ANSWER}",
        f"<think>\nHm.\n</think>\n\n```json\n{ANSWER}\n```",
        f"<thinking>{DRAFT}</thinking> {ANSWER}",
        f"<reasoning>{DRAFT}</reasoning>{ANSWER}",
        f"[THINK]{DRAFT}[/THINK]{ANSWER}",
        f"◁think▷{DRAFT}◁/think▷{ANSWER}",
        f"<seed:think>{DRAFT}</seed:think>{ANSWER}",
        f"<THINK>{DRAFT}</THINK>{ANSWER}",
        f"{DRAFT} so </think>{ANSWER}",  # the template opened the block in the prompt
        f"<think>{DRAFT}</think><think>{DRAFT}</think>{ANSWER}",
        f"<think>{DRAFT}<think>{DRAFT}</think>{DRAFT}</think>{ANSWER}",
        f"{ANSWER}<think>{DRAFT}",
        f"<mm:think>{DRAFT}</mm:think>{ANSWER}",
        f"<antThinking>{DRAFT}</antThinking>{ANSWER}",
        f"<inner_monologue>{DRAFT}</inner_monologue>{ANSWER}",
        f"<unused94>thought\n{DRAFT}<unused95>{ANSWER}",
        f"<|channel>thought\n{DRAFT}<channel|>{ANSWER}",
        f"Thinking...\nHm {DRAFT}\n...done thinking.\n\n{ANSWER}",
        f"&lt;think&gt;{DRAFT}&lt;/think&gt;{ANSWER}",
        f'<details type="reasoning" done="true">\n<summary>Hm</summary>{DRAFT}</details>{ANSWER}',
        f"{ANSWER}<|channel>thought\n{DRAFT}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        f"analysisWe need {DRAFT}.assistantfinal{ANSWER}",
        f"\ufeff{ANSWER}",
        f"\ufeff<think>{DRAFT}</think>{ANSWER}",
        '"{\\"a\\": 1}"',
    ],
)
def test_thinking_is_no_answer_and_what_is_behind_it_is(text: str) -> None:
    assert list(values_in(LLMResponse(text))) == [{"a": 1}]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}",
        f"<think>I say {DRAFT} and",
        f"[THINK]{DRAFT}",
        f"<|channel|>analysis<|message|>{DRAFT}",
        f"<|channel|>commentary<|message|>{DRAFT}<|end|>",
        "",
        "\ufeff",
    ],
)
def test_a_draft_that_was_cut_off_is_no_answer(text: str) -> None:
    assert list(values_in(LLMResponse(text, finish_reason="length"))) == []


@pytest.mark.parametrize("text", ['{"a": "</think>"}', '```json\n{"a": "<think>"}\n```', '{"a": "[THINK]"}'])
def test_a_tag_in_a_text_of_an_answer_is_text(text: str) -> None:
    (value,) = values_in(LLMResponse(text))

    assert "hink" in value["a"].lower()


def test_a_declined_reply_says_why() -> None:
    with pytest.raises(errors.OutputInvalid, match=r"declined to answer .refusal.: no"):
        list(values_in(LLMResponse("no", finish_reason="refusal")))


@given(st.text(st.characters() | st.characters(categories=["Cs"])))
def test_every_text_can_be_written_down_and_whole_ones_are_as_they_were(text: str) -> None:
    cleaned = clean(text)

    assert cleaned.encode().decode() == cleaned
    if not any("\ud800" <= sign <= "\udfff" for sign in text):
        assert cleaned == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("국물 \ud83d", "국물 \ufffd"),
        ("\ude00!", "\ufffd!"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d\ud83d", "\ufffd\ufffd"),
    ],
)
def test_a_half_emoji_is_replaced_and_two_halves_are_joined(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ('{"summary": "' + "It was good. " * 30, True),
        ("ㅋ" * 200, True),
        ('{"a": "' + "\\n" * 100, True),
        ('{"evidence": [' + "1, 2, 3, 4, " * 20, True),
        ("맛있고 친절하고 조용해요. 다음에 또 갈게요. 가격도 좋았고 국물이 진했어요. 직원이 빨라요.", False),
        ("It was good. It was good. ", False),
        ('{"labels": [' + "".join(f'{{"id": {n}, "label": "positive"}}, ' for n in range(1, 40)), False),
        ("", False),
    ],
)
def test_a_reply_loops_if_its_end_repeats_itself(text: str, looping: bool) -> None:
    assert is_looping(LLMResponse(text, finish_reason="length")) is looping


def test_a_context_is_full_if_a_reply_was_cut_off_before_its_limit() -> None:
    request = LLMRequest("t", (), max_tokens=100)
    full, at_the_limit, unknown = (LLMResponse("x", "length", completion_tokens=n) for n in (40, 100, 0))

    assert is_context_full(request, full)
    assert not is_context_full(request, at_the_limit)
    assert not is_context_full(request, unknown)
    assert not more_room_helps(request, full)
    assert more_room_helps(request, at_the_limit)
    assert not more_room_helps(request, LLMResponse("so " * 100, "length", completion_tokens=100))


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "{", "[THINK]"]), max_size=30))
def test_removing_thinking_removes_and_adds_nothing(pieces: list[str]) -> None:
    text = "".join(pieces)
    kept = iter(text)

    assert all(sign in kept for sign in without_thinking(text))  # a subsequence
