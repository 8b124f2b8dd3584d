"""Fields of `BatchSettings` for the tasks: their options, for every command that has them and for `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings

from ..tasks.comparison import CompareAspects
from ..tasks.sentiment import AnalyzeSentiment
from ..tasks.strengths import ExtractStrengths
from ..tasks.summary import SummarizeAspects
from .setting import Averages, Language, Names, Plan, setting

_EVERY = ("summary", "reviews", "sentiment", "strengths", "comparison", "vocabulary")


def _of(argument: str, *left_out: str) -> str:
    """Return the places of an argument that all tasks have, but those left out."""
    return " ".join(f"{task}.{argument}" for task in _EVERY if task not in left_out)


class TaskFields(BaseSettings):
    """What the tasks ask for."""

    batch_language: Language = setting(
        "auto",
        _of("language"),
        "Language of the replies, and of the search if there is one; auto detects that of the reviews. A code or a "
        "name: ko, en, ja, Japanese.",
        option="--language",
    )
    batch_instructions: str | None = setting(
        None,
        _of("instructions"),
        "Instructions of your own, which follow ours and come first where they differ.",
        option="--instructions",
    )
    batch_replace_instructions: bool = setting(
        False,
        _of("replace_instructions"),
        "Whether yours stand in place of ours; what remains are the form of the reply, and that reviews are data.",
        option="--replace-instructions/--add-instructions",
    )
    batch_temperature: float | None = setting(
        None,
        _of("temperature"),
        "Sampling temperature; by default 0.1 for summaries, 0.3 for strengths and 0 otherwise.",
        option="--temperature",
        ge=0,
    )
    batch_reply_tokens: int | None = setting(
        None,
        _of("max_tokens", "sentiment", "comparison"),
        "Tokens of a reply at most; by default 1500, 500 for summaries of given reviews, 400 for strengths.",
        option="--reply-tokens",
        ge=1,
    )
    batch_limit: int | None = setting(
        None,
        f"{_of('limit', 'reviews', 'vocabulary')} query.limit",
        f"Reviews that a search finds at most; by default {SummarizeAspects.limit} for an aspect of a summary, "
        f"{CompareAspects.limit} for one of a comparison, {ExtractStrengths.limit} for strengths and "
        f"{AnalyzeSentiment.limit} for sentiment.",
        option="--limit",
        ge=1,
        le=1000,
    )
    batch_min_score: float = setting(
        0.0,
        f"{_of('min_score', 'reviews', 'vocabulary')} query.min_score",
        "Least similarity of a review to the query, from -1 to 1; 0 for no bound.",
        option="--min-score",
        ge=-1,
        le=1,
    )
    batch_aspects: Names | None = setting(
        None,
        "aspects.names",
        "Aspects to summarise and to compare, with commas between them; an aspect without seed words is searched by "
        "its name. By default those of ASPECT_SEEDS_FILE or service,price,food; to compare, service,price.",
        option="--aspects",
    )
    aspect_seeds_file: Path | None = setting(
        None,
        "aspects.seeds",
        'JSON file of seed words of the aspects, {"service": ["직원 친절", ...], ...}; see `aspects`.',
        option="--aspects-file",
    )
    batch_mode: Literal["single", "split"] = setting(
        "single",
        "summary.mode",
        "Calls of a summary: single, one per restaurant; split, one per aspect and one for the overall summary.",
        option="--mode",
    )
    batch_category: str | None = setting(
        None, "summary.category", "Only reviews of restaurants of this kind of food are summarised."
    )
    batch_max_review_tokens: int = setting(
        64_000, "summary.max_review_tokens", "Tokens of all reviews of a summary at most.", ge=1
    )
    batch_price_rule: bool = setting(
        True,
        "summary.price_rule",
        "Whether a summary of the price must rest on a review with a word for it; otherwise it says that the reviews "
        "hardly mention the price.",
        option="--price-rule/--no-price-rule",
    )
    batch_sentiment_limit: int | None = setting(
        None,
        "sentiment.limit",
        "Reviews that a search finds for sentiment at most; it goes before BATCH_LIMIT.",
        ge=1,
        le=1000,
    )
    batch_sentiment_batch_size: int | None = setting(
        None,
        "sentiment.batch_size",
        "Reviews of a batch of sentiment at most, within the token budget; by default VLLM_MAX_BATCH_SIZE.",
        option="--batch-size",
        ge=1,
    )
    batch_sentiment_rounds: int = setting(
        3,
        "sentiment.max_rounds",
        "How often the labels of sentiment that are missing are asked for, the first time included.",
        ge=1,
    )
    batch_query: str | None = setting(
        None,
        "strengths.query sentiment.query",
        "Text to search for strengths and sentiment; by default the seed words of service, price and food.",
        option="--query",
    )
    batch_averages: Averages | None = setting(
        None,
        "comparison.averages",
        "The average shares of satisfied remarks, if they are known, such as service=0.6,price=0.55. Reviews of other "
        "restaurants are then not looked at.",
        option="--averages",
    )
    batch_vocabulary_plan: Plan = setting(
        "C",
        "vocabulary.plan",
        "Order of the calls of a vocabulary: A, words and phrases at once; B, all words first; C, A or B by the two "
        "variables that follow.",
        option="--order",
    )
    enable_parallel_word_phrase_extraction: bool = setting(
        False,
        "vocabulary.parallel",
        "Whether plan C extracts words and phrases of a document at once.",
        option="--parallel/--no-parallel",
    )
    max_safe_chunks_for_parallel: int = setting(
        4,
        "vocabulary.max_safe_chunks",
        "Most chunks of a document for which plan C does so.",
        option="--max-safe-chunks",
        ge=0,
    )
    batch_max_concurrent_sequences: int | None = setting(
        None,
        "vocabulary.max_concurrent_sequences",
        "Calls that the GPU's memory holds at once; plan C also does so if the chunks need no more.",
        ge=0,
    )
    batch_synonyms: bool = setting(
        False,
        "vocabulary.synonyms",
        "Whether synonyms of each word are asked for.",
        option="--synonyms/--no-synonyms",
    )
    batch_examples: bool = setting(
        False,
        "vocabulary.examples",
        "Whether an example of each word and phrase is asked for, a sentence of the document.",
        option="--examples/--no-examples",
    )
    batch_chunk_tokens: int = setting(
        2000, "chunks.max_tokens", "Tokens of a chunk of a document at most.", option="--chunk-tokens", ge=50
    )
