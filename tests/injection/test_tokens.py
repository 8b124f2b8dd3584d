"""
What a review is for a tokenizer.

Servers render the chat to one text and then tokenize that, so a control token that stands in a review is one
(transformers issue 29279, vLLM pull request 31735). None may stand there, in any family's spelling.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from unicodedata import normalize

import pytest
from tests.injection.corpus import CONTENTS
from tests.injection.doubles import saying
from tests.injection.jobs import JOBS, asked
from tests.injection.prompt import user
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch.tasks._prompts.aspects import quoted

FAMILIES = {
    "chatml": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<think>", "</think>"],
    "llama-3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"],
    "deepseek": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    "harmony": ["<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"],
    "exaone": ["[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]", "[BOS]", "[EOS]"],
    "glm": ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
    "minimax": ["]~b]", "]~!b[", "[e~["],
    "internlm": ["<s>", "</s>", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]", "<|im_end|>"],
}


def tokenizer_with(special: Iterable[str]) -> Tokenizer:
    """Make a tokenizer of single bytes and of control tokens."""
    alphabet = {byte: number for number, byte in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


TOKENIZER = tokenizer_with({token for tokens in FAMILIES.values() for token in tokens})


@cache
def control_tokens(text: str) -> frozenset[str]:
    """Return the control tokens, of any family, that stand in a text; none of them holds a line break."""
    lines = "\n".join(dict.fromkeys(text.split("\n")))  # what every request repeats is tokenized once
    return frozenset(TOKENIZER.encode(lines).tokens) & {t for tokens in FAMILIES.values() for t in tokens}


SAID = "\n".join(CONTENTS)


@cache
def every_request() -> list[LLMRequest]:
    """Return every kind of request, each about all of the reviews, and with all of them come back as summaries."""
    found = [request for job in JOBS for request in asked(job, CONTENTS, saying(SAID))]
    return found + asked(
        "reviews", ["plain " * 200] * 4, saying(SAID), max_tokens_per_batch=700, max_tokens=50
    )


@cache
def every_repair() -> list[LLMRequest]:
    """Return the second requests about answers that hold one of the reviews each."""
    return [
        request
        for content in CONTENTS
        for request in asked("reviews", ["plain"], lambda request: f"{{ {content}")  # noqa: B023
        if request.task == "repair"
    ]


each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_the_reviews_would_hold_control_tokens_if_they_were_not_quoted(family: str) -> None:
    assert control_tokens("".join(CONTENTS)) & set(FAMILIES[family])


@pytest.mark.slow
@each_family
def test_no_request_holds_a_control_token_of_a_reviews_making(family: str) -> None:
    assert not control_tokens("".join(map(user, every_request()))) & set(FAMILIES[family])


@pytest.mark.sample(3)
@each_family
def test_no_quoted_answer_holds_a_control_token(family: str) -> None:
    """The model's words stand in a turn of their own, and a review may have put them into its mouth."""
    quotes = "".join(request.messages[2]["content"] for request in every_repair())

    assert not control_tokens(quotes) & set(FAMILIES[family])


def test_there_are_requests_of_every_kind_to_look_at() -> None:
    assert every_repair()
    assert {request.task for request in every_request()} == {
        "aspect_summaries", "aspect_summary", "overall_summary", "review_summary", "merge_summaries",
        "sentiment", "aspect_sentiment", "comparison_summary", "strength", "words", "phrases",
    }  # fmt: skip


def test_nothing_in_a_review_breaks_its_line() -> None:
    """Not for Python either, which knows more ends of lines than a line feed."""
    broken = [q.task for q in every_request() if len(user(q).splitlines()) != user(q).count("\n")]

    assert broken == []


def test_a_tokenizer_that_normalises_finds_the_same_lines_and_tags() -> None:
    """SentencePiece takes text in form NFKC unless it is told otherwise: a fullwidth bracket becomes a bracket."""
    for content in CONTENTS:
        for form in ("NFC", "NFKC"):
            text = normalize(form, quoted(content))
            assert not set("<>") & set(text)
            assert normalize(form, json.loads(text)) == normalize(form, content)


def test_korean_and_what_people_write_costs_no_escape() -> None:
    for text in (
        "맛있어요 ㅎㅎ 👍🏽",
        "Crème brûlée — “the best”, 10/10 (really) & more…",
        "[네이버] 12,000원~",
    ):
        assert json.loads(quoted(text)) == text
        assert "\\" not in quoted(text)
