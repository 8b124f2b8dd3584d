"""Exact counters, with tiktoken, tokenizers and a server as they are; no vocabulary is fetched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from tests.support.local_server import LocalServer, Say, Seen

from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.backends.vllm._counter import VLLMTokenCounter
from restaurant_llm_batch.errors import ConfigurationError, TransientBackendError
from restaurant_llm_batch.tokens.packing import pack_reviews
from restaurant_llm_batch.tokens.tokenizers import TiktokenCounter, TokenizersCounter

REVIEWS = ["맛있어요 맛있어요", "the soup was cold", "분위기도 좋고 soup 도 맛있어요", "맛" * 40]


@pytest.fixture
def encoding() -> Any:
    """An encoding of single bytes and a few words."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for piece in ("th", "the", "so", "up"):
        ranks[piece.encode()] = len(ranks)
    return tiktoken.Encoding(
        "by-hand", pat_str=r"\S+|\s+(?!\S)|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 900}
    )


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer trained on a few lines, which truncates and pads unless told otherwise."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(REVIEWS, trainer)
    made.enable_truncation(4)
    made.enable_padding(length=64)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_end|> $A", special_tokens=[("<|im_end|>", made.token_to_id("<|im_end|>"))]
    )
    return made


def test_tiktoken_counts_the_encodings_tokens(encoding: Any) -> None:
    count = TiktokenCounter(encoding)
    assert [count(text) for text in ("", "the", "soup", "the soup", "맛")] == [0, 1, 2, 4, 3]
    assert repr(count) == "TiktokenCounter('by-hand')"


def test_tiktoken_counts_special_tokens_as_the_text_they_are(encoding: Any) -> None:
    assert TiktokenCounter(encoding)("<|endoftext|>") == len("<|endoftext|>")


def test_tiktoken_reads_halves_of_surrogate_pairs(encoding: Any) -> None:
    assert TiktokenCounter(encoding)("a\ud83d") >= 2


def test_tiktoken_survives_what_makes_it_panic(encoding: Any) -> None:
    assert 0 < TiktokenCounter(encoding)(" " * 2_000_000 + "a") <= 2_000_001


def test_tiktoken_knows_no_such_model() -> None:
    with pytest.raises(ConfigurationError, match=r"no model or encoding 'gpt-none'; use one of .*o200k_base"):
        TiktokenCounter("gpt-none")
    with pytest.raises(ConfigurationError, match="name must be a model or an encoding"):
        TiktokenCounter(3)


def test_tiktoken_without_its_vocabulary_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=r"cannot load 'p50k_edit'.*TIKTOKEN_CACHE_DIR"):
        TiktokenCounter("p50k_edit")


def saved(tokenizer: Any, folder: Path) -> Path:
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.mark.parametrize("shape", ["object", "path", "text", "folder"])
def test_tokenizers_counts_all_of_a_text_and_nothing_else(tokenizer: Any, tmp_path: Path, shape: str) -> None:
    file = saved(tokenizer, tmp_path)
    source = {"object": tokenizer, "path": file, "text": str(file), "folder": tmp_path}[shape]
    count = TokenizersCounter(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for review in REVIEWS:
        assert count(review) == len(tokenizer.encode(review, add_special_tokens=False).ids)
    assert count("") == 0
    assert count(" ".join(REVIEWS)) > 4


def test_tokenizers_leaves_the_given_tokenizer_as_it_is(tokenizer: Any) -> None:
    TokenizersCounter(tokenizer)
    assert len(tokenizer.encode("맛" * 40, add_special_tokens=False).ids) == 64  # padded, as before
    assert not tokenizer.encode_special_tokens


def test_tokenizers_counts_special_tokens_as_the_text_they_are(tokenizer: Any) -> None:
    assert TokenizersCounter(tokenizer)("<|im_end|>") > 1


def test_tokenizers_reads_halves_of_surrogate_pairs(tokenizer: Any) -> None:
    count = TokenizersCounter(tokenizer)
    assert count("a\ud83d") == count("a?")


def test_tokenizers_names_what_it_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for source in (tmp_path / "none", tmp_path / "none.json", str(tmp_path / "broken.json"), tmp_path):
        with pytest.raises(ConfigurationError, match=r"cannot load .*Name a tokenizer\.json"):
            TokenizersCounter(source)
    for nothing in ("", None, 3):
        with pytest.raises(ConfigurationError, match="source must be a path"):
            TokenizersCounter(nothing)


@pytest.mark.parametrize(
    ("make", "package"),
    [(lambda: TiktokenCounter("gpt-4o"), "tiktoken"), (lambda: TokenizersCounter("x"), "tokenizers")],
)
def test_without_the_extra_it_says_what_to_install(
    make: Callable[[], object], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'restaurant-llm-batch\[{package}\]'"):
        make()


def letters(seen: Seen) -> Say:
    """Find a token in each letter."""
    return Say({"count": len(seen.json["prompt"]), "max_model_len": 1024, "tokens": []})


def test_a_vllm_server_is_asked_once_for_each_text() -> None:
    with LocalServer(letters) as server:
        llm = VLLMServerLLM(server.url, "tiny")
        count = VLLMTokenCounter(llm)
        assert [count(text) for text in ("맛있어요", "별로", "맛있어요", "")] == [4, 2, 4, 0]
        llm.close()
    assert [(seen.path, seen.json["prompt"]) for seen in server.seen] == [
        ("/tokenize", "맛있어요"),
        ("/tokenize", "별로"),
    ]


def test_a_vllm_servers_counts_are_kept_per_counter_and_no_more_than_asked() -> None:
    with LocalServer(letters) as server:
        llm = VLLMServerLLM(server.url, "tiny")
        one, other = VLLMTokenCounter(llm, cache=1), VLLMTokenCounter(llm)
        for text in ("a", "a", "b", "a"):
            one(text)
        other("a")
        llm.close()
    assert len(server.seen) == 4


def test_a_vllm_counter_says_that_it_blocks() -> None:
    assert VLLMTokenCounter.blocking


def test_a_vllm_counter_packs_batches() -> None:
    with LocalServer(letters) as server:
        llm = VLLMServerLLM(server.url, "tiny")
        batches = pack_reviews(["aaaa", "bbb", "cc", "\ud83d"], 7, count_tokens=VLLMTokenCounter(llm))
        llm.close()
    assert batches == [["aaaa", "bbb"], ["cc", "\ud83d"]]


def test_a_servers_failure_is_reported_and_not_kept() -> None:
    answers = iter([Say({"error": {"message": "busy"}}, 503), Say({"count": 3})])
    with LocalServer(lambda _: next(answers)) as server:
        llm = VLLMServerLLM(server.url, "tiny")
        count = VLLMTokenCounter(llm)
        with pytest.raises(TransientBackendError):
            count("맛")
        assert count("맛") == 3
        llm.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("http://localhost:8000",), "llm must be a VLLMServerLLM"), ((VLLMServerLLM(), -1), "cache must be")],
)
def test_a_wrong_argument_of_a_vllm_counter_is_named(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        VLLMTokenCounter(arguments[0], **({"cache": arguments[1]} if len(arguments) > 1 else {}))
