"""Fields of `BatchSettings`: for each setting its type, default, bounds and meaning, its option, and what it sets."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from .setting import JSONObject, Limit, Prices, setting


class SettingFields(BaseSettings):
    """The fields, in the order in which they are shown; of two that set one argument, the later goes before."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True, env_file=".env"
    )

    # Strategy
    batch_stage: Literal["1", "2", "3", "4", "threaded"] | None = setting(
        None,
        "strategy.stage",
        "1: one call at a time; 2: concurrent searches; 3: also the model's async client; 4: also concurrent items; "
        "threaded: all concurrent, without an event loop. It goes before the three variables that follow.",
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
    batch_restaurant_window: int = setting(
        200, "limits.open_items", "Items open at once at most.", option="--window", ge=1
    )
    vllm_max_tokens_per_batch: int = setting(
        4000,
        "limits.max_tokens_per_batch",
        "Tokens of a batch of reviews at most, prompt and answer included.",
        option="--max-tokens-per-batch",
        ge=1,
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

    # Store and process
    batch_store: Path | None = setting(
        None,
        "store.path",
        "File in which answers are kept, so that none is paid for twice.",
        option="--store",
    )
    batch_store_lock_timeout: float = setting(
        10.0, "store.lock_timeout", "Seconds to wait for another process that writes to the file.", gt=0
    )
    batch_gc_threshold: int | None = setting(
        None,
        "runner.gc_threshold",
        "Threshold of Python's garbage collector while the runner is in use.",
        ge=1,
    )

    # Tasks
    aspect_seeds_file: Path | None = setting(
        None,
        "tasks.aspects",
        'JSON file of seed words of the aspects, {"service": ["직원 친절", ...], ...}; see `aspects`.',
        option="--aspects-file",
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

    # Model
    batch_llm_backend: Literal["offline", "openai", "vllm", "vllm-engine", "runpod"] = setting(
        "offline",
        "llm.backend",
        "The model: openai (or any service that speaks its API), vllm (a server), vllm-engine (in this process), "
        "runpod, or offline (no model: sentences picked from the reviews).",
        option="--llm",
    )
    batch_llm_model: str | None = setting(
        None,
        "openai.model vllm.model engine.model runpod.model",
        "Name of the model; required for openai, otherwise the service's own by default.",
        option="--model",
    )
    batch_llm_url: str | None = setting(
        None,
        "openai.base_url vllm.base_url",
        "URL of a vLLM server, or of a service that speaks OpenAI's API.",
        option="--llm-url",
    )
    batch_llm_timeout: float = setting(
        600.0,
        "timeout.total runpod.timeout",
        "Seconds for an answer; for runpod, the time in the queue included.",
        option="--llm-timeout",
        gt=0,
    )
    batch_llm_connect_timeout: float = setting(10.0, "timeout.connect", "Seconds for a connection.", gt=0)
    batch_llm_read_timeout: float | None = setting(
        None, "timeout.read", "Seconds without a byte of the answer.", gt=0
    )
    batch_llm_extra_body: JSONObject | None = setting(
        None,
        "openai.extra_body vllm.extra_body runpod.extra_body",
        "JSON object of further fields of each request.",
        option="--extra-body",
    )
    batch_llm_sampling: JSONObject | None = setting(
        None,
        "vllm.sampling runpod.sampling",
        "JSON object of vLLM's sampling parameters besides temperature.",
    )
    batch_llm_send_temperature: bool = setting(
        True,
        "openai.send_temperature",
        "Whether the temperature is sent; some models refuse it. A model's refusal is learned in any case.",
        option="--send-temperature/--no-temperature",
    )
    batch_llm_max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = setting(
        None, "openai.max_tokens_field", "Field for the answer's length; by default what the model takes."
    )
    openai_api_key: SecretStr | None = setting(
        None, "openai.api_key", "API key of OpenAI, or of the service at BATCH_LLM_URL."
    )
    openai_organization: str | None = setting(None, "openai.organization", "Organization of OpenAI.")
    openai_project: str | None = setting(None, "openai.project", "Project of OpenAI.")
    openai_service_tier: str | None = setting(None, "openai.service_tier", "Tier of OpenAI, such as flex.")
    openai_prompt_cache_key: str | None = setting(
        None, "openai.prompt_cache_key", "Key of OpenAI's prompt cache."
    )
    vllm_api_key: SecretStr | None = setting(
        None, "vllm.api_key", "API key of the vLLM server, if it requires one."
    )
    vllm_engine_arguments: JSONObject | None = setting(
        None,
        "engine.arguments",
        'JSON object of arguments of the engine in this process, such as {"max_model_len": 8192}.',
    )
    vllm_chat_template_kwargs: JSONObject | None = setting(
        None, "engine.chat_template_kwargs", "JSON object of arguments of that engine's chat template."
    )
    runpod_api_key: SecretStr | None = setting(None, "runpod.api_key", "API key of RunPod.")
    runpod_endpoint_id: str | None = setting(
        None,
        "runpod.endpoint_id",
        "Id of the RunPod serverless endpoint, as in its URL.",
        option="--runpod-endpoint",
    )
    runpod_execution_timeout: float | None = setting(
        None, "runpod.execution_timeout", "Seconds that a worker may work on a job.", gt=0
    )
    runpod_ttl: float | None = setting(
        None, "runpod.ttl", "Seconds that a job may exist, the queue included.", gt=0
    )
    runpod_low_priority: bool = setting(
        False, "runpod.low_priority", "Whether jobs do not make RunPod start workers."
    )
    runpod_request_timeout: float = setting(
        30.0, "runpod.request_timeout", "Seconds for one request to RunPod's API.", gt=0
    )

    # HTTP
    batch_proxy: str | None = setting(
        None, "transport.proxy", "URL of a proxy for the model; by default that of the proxy variables."
    )
    batch_ca_bundle: Path | None = setting(
        None, "transport.ca_bundle", "File of certificate authorities for the model."
    )
    batch_keepalive_expiry: float = setting(
        4.0, "transport.keepalive_expiry", "Seconds for which an idle connection is kept.", ge=0
    )

    batch_max_answer: int = setting(
        64 * 2**20,
        "transport.max_answer qdrant.max_answer",
        "Bytes of an answer at most, when it is decompressed.",
        ge=1,
    )

    # Search
    batch_search_backend: Literal["embedded", "qdrant"] = setting(
        "embedded",
        "search.backend",
        "The search: embedded (in this process) or qdrant (a server).",
        option="--search",
    )
    batch_search_path: Path | None = setting(
        None,
        "embedded.path",
        "Folder of the embedded search; without one the index is in memory, and empty at first.",
    )
    batch_search_timeout: float = setting(
        30.0, "qdrant.timeout", "Seconds for the Qdrant server's answer.", gt=0
    )
    qdrant_url: str | None = setting(None, "qdrant.url", "URL of the Qdrant server.", option="--qdrant-url")
    qdrant_api_key: SecretStr | None = setting(None, "qdrant.api_key", "API key of the Qdrant server.")
    qdrant_collection: str = setting(
        "reviews", "qdrant.collection", "Name of its collection.", option="--collection"
    )
    qdrant_prefer_grpc: bool = setting(
        False, "qdrant.prefer_grpc", "Whether to use gRPC for the Qdrant server."
    )
    qdrant_grpc_port: int = setting(6334, "qdrant.grpc_port", "Its port for gRPC.", ge=1)
    qdrant_pool_size: int | None = setting(None, "qdrant.pool_size", "Connections to it at most.", ge=1)
    qdrant_schema: JSONObject | None = setting(
        None, "qdrant.schema", 'JSON object of the collection\'s names, such as {"content": "page_content"}.'
    )
    qdrant_where: JSONObject | None = setting(
        None, "qdrant.where", "JSON object of payload values that every review has."
    )

    # Embedder
    batch_embedder: Literal["hashing", "fastembed", "api"] = setting(
        "hashing",
        "embedder.backend",
        "The embedder: hashing (no download), fastembed (a model in this process) or api (a service that speaks "
        "OpenAI's API). Search with the embedder that made the index.",
        option="--embedder",
    )
    batch_embedding_model: str | None = setting(
        None,
        "fastembed.model api.model",
        "Name of the embedding model; required for api.",
        option="--embedding-model",
    )
    batch_embedding_url: str = setting(
        "https://api.openai.com/v1",
        "api.base_url",
        "URL of the embedding service, with its /v1.",
        option="--embedding-url",
    )
    batch_embedding_api_key: SecretStr | None = setting(
        None, "api.api_key", "API key of the embedding service."
    )
    batch_embedding_size: int | None = setting(
        None, "hashing.size api.size", "Dimension of the vectors; by default the embedder's own.", ge=1
    )
    batch_embedding_batch_size: int | None = setting(
        None, "fastembed.batch_size api.batch_size", "Texts embedded at once.", ge=1
    )
    batch_embedding_query_prefix: str = setting(
        "", "fastembed.query_prefix api.query_prefix", "Prefix of queries, if the model has one."
    )
    batch_embedding_document_prefix: str = setting(
        "", "fastembed.document_prefix api.document_prefix", "Prefix of documents, if the model has one."
    )
    batch_embedding_timeout: float = setting(
        60.0, "api.timeout", "Seconds for an answer of that service.", gt=0
    )
    batch_embedding_longest_text: int = setting(
        6000, "api.longest_text", "Characters of a text at most.", ge=1
    )
    batch_embedding_extra_body: JSONObject | None = setting(
        None, "api.extra_body", "JSON object of further fields of its requests."
    )
    batch_embedding_model_path: Path | None = setting(
        None, "fastembed.model_path", "Folder with fastembed's model."
    )
    batch_embedding_cache_dir: Path | None = setting(
        None, "fastembed.cache_dir", "Folder into which fastembed downloads."
    )
    batch_embedding_threads: int | None = setting(None, "fastembed.threads", "Threads of fastembed.", ge=1)
