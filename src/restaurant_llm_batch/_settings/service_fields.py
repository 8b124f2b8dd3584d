"""Fields of `BatchSettings` for services: the model, its HTTP transport, the search and the embedder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from .setting import JSONObject, setting


class ServiceFields(BaseSettings):
    """The services, and how to reach them."""

    # Model
    batch_llm_backend: Literal["offline", "openai", "openai-batch", "vllm", "vllm-engine", "runpod"] = (
        setting(
            "offline",
            "llm.backend",
            "The model: openai (or any service that speaks its API), openai-batch (half the price, within a day), vllm "
            "(a server), vllm-engine (in this process), runpod, or offline (no model: sentences of the reviews).",
            option="--llm",
        )
    )
    batch_llm_model: str | None = setting(
        None,
        "openai.model openai_batch.model vllm.model engine.model runpod.model",
        "Name of the model; required for openai, otherwise the service's own by default.",
        option="--model",
    )
    batch_llm_url: str | None = setting(
        None,
        "openai.base_url openai_batch.base_url vllm.base_url",
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
        "openai.extra_body openai_batch.extra_body vllm.extra_body runpod.extra_body",
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
        "openai.send_temperature openai_batch.send_temperature",
        "Whether the temperature is sent; some models refuse it. A model's refusal is learned in any case.",
        option="--send-temperature/--no-temperature",
    )
    batch_llm_max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = setting(
        None,
        "openai.max_tokens_field openai_batch.max_tokens_field",
        "Field for the answer's length; by default what the model takes.",
    )
    openai_api_key: SecretStr | None = setting(
        None, "openai.api_key openai_batch.api_key", "API key of OpenAI, or of the service at BATCH_LLM_URL."
    )
    openai_organization: str | None = setting(
        None, "openai.organization openai_batch.organization", "Organization of OpenAI."
    )
    openai_project: str | None = setting(None, "openai.project openai_batch.project", "Project of OpenAI.")
    openai_service_tier: str | None = setting(None, "openai.service_tier", "Tier of OpenAI, such as flex.")
    openai_prompt_cache_key: str | None = setting(
        None, "openai.prompt_cache_key", "Key of OpenAI's prompt cache."
    )
    openai_batch_min_wave: int = setting(
        0,
        "openai_batch.min_wave",
        "Calls below which a batch is not worth it, with OPENAI_BATCH_ONLINE_REST.",
        ge=0,
    )
    openai_batch_online_rest: bool = setting(
        False,
        "openai_batch.online_rest",
        "Whether the calls of small or late batches are made online, at full price.",
    )
    openai_batch_wait_at_most: float | None = setting(
        None, "openai_batch.wait_at_most", "Seconds for a batch, which is cancelled then.", gt=0
    )
    openai_batch_on_stop: Literal["cancel", "keep"] = setting(
        "cancel",
        "openai_batch.on_stop",
        "What happens to the batches of a run that is stopped: cancel ends them, keep leaves them to the next run.",
    )
    openai_batch_max_enqueued_tokens: int | None = setting(
        None,
        "openai_batch.max_enqueued_tokens",
        "Prompt tokens that the account may have in all batches at once; by default learned from refusals.",
        ge=1,
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
    runpod_input: Literal["chat", "prompt"] = setting(
        "chat",
        "runpod.input_form",
        "Form of a job's input: chat, for worker-vllm; prompt, for a worker of your own that takes "
        '{"prompt": text, "max_tokens": ...}.',
        option="--runpod-input",
    )
    runpod_max_wait_time: float | None = setting(
        None,
        "runpod.timeout",
        "Seconds for a job of RunPod, the queue included, in place of BATCH_LLM_TIMEOUT.",
        gt=0,
    )
    runpod_poll_interval: float = setting(
        5.0,
        "polling.wait_max",
        "Most seconds between two looks at a job; the first is after half a second, or this time if shorter.",
        gt=0,
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
    batch_sparse_embedder: Literal["hashing", "bm25"] = setting(
        "hashing",
        "sparse.kind",
        "The sparse half of fastembed and api: hashing (Korean and English stems) or bm25 (fastembed's Qdrant/bm25).",
    )
    batch_sparse_language: str = setting(
        "english", "sparse.language", "Language of the stems of bm25, in English."
    )
