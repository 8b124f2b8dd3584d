"""Fields of `BatchSettings` for the runner: strategy, limits, retries, time limits, stop conditions, files, process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings

from .setting import Limit, Prices, TokenCounterName, setting


class RunFields(BaseSettings):
    """How a run is carried out."""

    # Strategy
    batch_stage: Literal["1", "2", "3", "4", "threaded"] | None = setting(
        None,
        "strategy.stage",
        "1: one call at a time; 2: concurrent searches; 3: also the model's async client; 4: also concurrent items; "
        "threaded: all concurrent, without an event loop. It goes before BATCH_SEARCH_ASYNC, BATCH_RESTAURANT_ASYNC "
        "and LLM_ASYNC. If none of the four is set, commands and serve use 4; in Python the three are false.",
        option="--stage",
    )
    batch_search_async: bool = setting(False, "strategy.search_async", "Whether searches run concurrently.")
    batch_restaurant_async: bool = setting(
        False, "strategy.restaurant_async", "Whether items run concurrently."
    )
    llm_async: bool = setting(False, "strategy.llm_async", "Whether the model's async client is used.")

    # Limits
    batch_limits: Literal["24gb", "40gb", "80gb"] | None = setting(
        None,
        "limits.preset",
        "Limits for a GPU with this much memory, for those that nothing else sets.",
        option="--limits",
    )
    batch_search_concurrency: Limit = setting(
        50, "limits.search", "Searches in flight, or auto.", option="--search-concurrency"
    )
    batch_llm_concurrency: Limit | None = setting(
        None,
        "limits.llm",
        "Calls of the model in flight, or auto, which adapts to what the service takes. By default auto with a service "
        "behind it, and 8 otherwise.",
        option="--llm-concurrency",
    )
    vllm_max_concurrent_batches: Limit | None = setting(
        None,
        "limits.batches",
        "Calls of the model in flight that carry a batch of reviews, or auto. By default auto with a service behind "
        "it, and 20 otherwise.",
        option="--batch-concurrency",
    )
    batch_llm_total_concurrency: Limit | None = setting(
        None,
        "limits.llm_total",
        "Calls of the model in flight, of both kinds together.",
        option="--llm-total",
    )
    batch_adaptive_min: int = setting(
        1, "adaptive.min", "Least calls in flight of a limit that is auto.", ge=1
    )
    batch_adaptive_start: int = setting(
        8, "adaptive.start", "Calls in flight with which such a limit starts.", ge=1
    )
    batch_adaptive_max: int = setting(256, "adaptive.max", "Most calls in flight of such a limit.", ge=1)
    batch_adaptive_latency_factor: float | None = setting(
        None,
        "adaptive.latency_factor",
        "How many times as long as at an idle server calls may take; such a limit goes down beyond that.",
        gt=1,
    )
    batch_restaurant_window: int = setting(
        200, "limits.open_items", "Items open at once at most.", option="--window", ge=1
    )
    vllm_max_tokens_per_batch: Limit = setting(
        4000,
        "limits.max_tokens_per_batch",
        "Tokens of a batch of reviews at most, prompt and answer included; or auto, which grows and shrinks batches by "
        "what the server bears.",
        option="--max-tokens-per-batch",
    )
    batch_adaptive_batch_min: int = setting(
        1000, "adaptive_batch.min", "Least tokens of such a batch that is auto.", ge=1
    )
    batch_adaptive_batch_start: int = setting(
        4000, "adaptive_batch.start", "Tokens with which such batches start.", ge=1
    )
    batch_adaptive_batch_max: int = setting(
        16_000, "adaptive_batch.max", "Most tokens of such a batch.", ge=1
    )
    vllm_max_batch_size: int = setting(
        100, "limits.max_batch_size", "Reviews of a batch at most.", option="--max-batch-size", ge=1
    )
    vllm_min_batch_size: int = setting(
        10,
        "limits.min_batch_size",
        "Least result of calculate_dynamic_batch_size; batches are packed by tokens, and may be smaller.",
        ge=1,
    )
    vllm_default_batch_size: int = setting(
        50, "limits.default_batch_size", "Result of calculate_dynamic_batch_size for no reviews.", ge=1
    )
    batch_tokens_in_flight: int | None = setting(
        None,
        "limits.tokens_in_flight",
        "Tokens of the calls in flight at most.",
        option="--tokens-in-flight",
        ge=1,
    )
    batch_requests_per_minute: int | None = setting(
        None,
        "limits.requests_per_minute",
        "Calls of the model a minute at most.",
        option="--requests-per-minute",
        ge=1,
    )
    batch_tokens_per_minute: int | None = setting(
        None,
        "limits.tokens_per_minute",
        "Tokens of these calls a minute at most.",
        option="--tokens-per-minute",
        ge=1,
    )

    # Retries; the more special setting goes before
    batch_attempts: int = setting(
        3,
        "llm_retry.attempts search_retry.attempts",
        "Attempts of a call that fails with an error that may pass.",
        option="--attempts",
        ge=1,
    )
    batch_llm_attempts: int = setting(3, "llm_retry.attempts", "Attempts of a call of the model.", ge=1)
    batch_llm_wait_initial: float = setting(
        0.5,
        "llm_retry.wait_initial",
        "Seconds before its second attempt, doubled for each further one.",
        ge=0,
    )
    batch_llm_wait_max: float = setting(
        30.0,
        "llm_retry.wait_max",
        "Most seconds between two attempts, also if the service asks for more.",
        ge=0,
    )
    batch_llm_max_rate_limit_attempts: int = setting(
        20, "llm_retry.max_rate_limit_attempts", "Refusals of one call before it fails.", ge=1
    )
    batch_search_attempts: int = setting(3, "search_retry.attempts", "Attempts of a search.", ge=1)
    batch_search_wait_initial: float = setting(
        0.5,
        "search_retry.wait_initial",
        "Seconds before its second attempt, doubled for each further one.",
        ge=0,
    )
    batch_search_wait_max: float = setting(
        30.0, "search_retry.wait_max", "Most seconds between two attempts of a search.", ge=0
    )
    batch_search_max_rate_limit_attempts: int = setting(
        20, "search_retry.max_rate_limit_attempts", "Refusals of one search before it fails.", ge=1
    )

    # Time limits and stop conditions
    batch_call_seconds: float | None = setting(
        None, "time_limits.call", "Seconds for one call.", option="--call-seconds", gt=0
    )
    batch_item_seconds: float | None = setting(
        None, "time_limits.item", "Seconds for one item.", option="--item-seconds", gt=0
    )
    batch_run_seconds: float | None = setting(
        None, "time_limits.run", "Seconds for the whole run.", option="--run-seconds", gt=0
    )
    batch_stall_warning_seconds: float | None = setting(
        60.0, "time_limits.stall_warning_after", "Seconds without progress before a warning.", gt=0
    )
    batch_stop_tokens: int | None = setting(
        None, "stop.max_tokens", "Stop when so many tokens are used.", option="--stop-tokens", ge=1
    )
    batch_stop_cost: float | None = setting(
        None,
        "stop.max_cost",
        "Stop when so many dollars are spent; needs prices.",
        option="--stop-cost",
        gt=0,
    )
    batch_stop_error_rate: float | None = setting(
        None,
        "stop.error_rate",
        "Stop when this share of items fails, from 0 to 1.",
        option="--stop-error-rate",
        gt=0,
        le=1,
    )
    batch_stop_error_rate_window: int = setting(
        50, "stop.error_rate_window", "Last items of which the share is taken.", ge=1
    )
    batch_stop_rate_limited_seconds: float | None = setting(
        None,
        "stop.max_rate_limited_seconds",
        "Stop when the service has refused everything for so long.",
        gt=0,
    )
    batch_stop_same_error_in_a_row: int | None = setting(
        20,
        "stop.same_error_in_a_row",
        "Stop when so many items in a row end with the same permanent error.",
        ge=1,
    )
    batch_prices: Prices | None = setting(
        None,
        "runner.prices",
        'Prices by model in dollars for a million tokens, as JSON: {"gpt-5-mini": [0.25, 2.0]} for prompt and answer; '
        "a third number for the cached part of the prompt.",
        option="--prices",
    )

    # Store, record and process
    batch_store: Path | None = setting(
        None,
        "store.path",
        "File in which answers are kept, so that none is paid for twice.",
        option="--store",
    )
    batch_record: Path | None = setting(
        None,
        "record.path",
        "File in which runs are recorded: items, calls, waits, tokens, cost and limits. It may be the store's file.",
        option="--record",
    )
    batch_record_texts: bool = setting(
        False,
        "record.texts",
        "Whether the record also keeps prompts, answers, the reviews that the model was shown, and results.",
        option="--record-texts/--no-record-texts",
    )
    batch_store_lock_timeout: float = setting(
        10.0,
        "store.lock_timeout record.lock_timeout",
        "Seconds to wait for another process that writes to the file.",
        gt=0,
    )
    batch_watch_server: float | None = setting(
        None,
        "runner.watch_server",
        "Seconds between two readings of the load of the model's server; nothing is read without it.",
        option="--watch-server",
        gt=0,
    )
    batch_gc_threshold: int | None = setting(
        None,
        "runner.gc_threshold",
        "Threshold of Python's garbage collector while the runner is in use.",
        ge=1,
    )
    batch_token_counter: TokenCounterName = setting(
        "estimate",
        "counter.name",
        "Counter of tokens: estimate (no download), tiktoken or tiktoken:NAME (of a model or an encoding), hf:NAME (a "
        "model of the Hugging Face hub, a tokenizer.json or its folder) or vllm (the server at BATCH_LLM_URL).",
        option="--token-counter",
    )
