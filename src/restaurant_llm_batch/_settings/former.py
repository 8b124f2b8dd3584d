"""
Former variables: those that the source service read, with the settings that take their place, or why none does.

The names that this library shares with it are settings themselves. The others are not read: some mean another
program's variable as often as this one (`LLM_MODEL`, `OPENAI_MODEL`), and several of them set one argument. They are
translated by `restaurant-llm-batch config --from-env`, and named by `config` and in a warning if they are set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

Values: TypeAlias = Mapping[str, str]
"""Variables with their values."""
Translate: TypeAlias = Callable[[str, Values], Mapping[str, str]]
"""
Returns our variables for a former one, given its name and all former values; none if it has no effect.

Raises a ValueError that says what the value must be.
"""


def _nothing(_name: str, _old: Values) -> Values:
    return {}


@dataclass(frozen=True, slots=True)
class Former:
    """
    A former variable.

    Attributes:
        note: What takes its place, or why nothing does; a clause without a full stop.
        translate: Returns our variables for its value.
        successors: The variables that `translate` may return.
        is_general: Whether other programs may have a variable of this name.
        merges: Whether `translate` has read the successor's own value, and goes before it.
    """

    note: str
    translate: Translate = _nothing
    successors: tuple[str, ...] = ()
    is_general: bool = False
    merges: bool = False


OPENAI_DEFAULT_MODEL = "gpt-4o-mini"
LLM_DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"
DEFAULT_COLLECTION = "reviews_collection"
DEFAULT_EMBEDDING_MODEL = "sentence-transformers/paraphrase-multilingual-mpnet-base-v2"
"""Defaults of the source service, which hold where its file has no value."""
_TRUE, _FALSE = (
    frozenset({"true", "1", "yes", "on", "y", "t"}),
    frozenset({"false", "0", "no", "off", "n", "f"}),
)


def is_true(value: str) -> bool:
    """
    Return a truth value.

    Raises:
        ValueError: It is none.
    """
    text = value.strip().lower()
    if text not in _TRUE | _FALSE:
        raise ValueError("give true or false")
    return text in _TRUE


def _is_on(old: Values, name: str) -> bool:
    value = old.get(name, "").strip().lower()
    return value in _TRUE


def backend_of(old: Values) -> str | None:
    """Return our backend for the former provider; None if nothing names one."""
    provider = old.get("LLM_PROVIDER", "").strip().lower()
    if provider == "openai":
        return "openai"
    if _is_on(old, "USE_POD_VLLM") or provider == "local":
        return "vllm-engine"
    if provider == "runpod" or _is_on(old, "USE_RUNPOD") or old.get("RUNPOD_ENDPOINT_ID"):
        return "runpod"
    return "openai" if old.get("OPENAI_MODEL") or old.get("OPENAI_API_KEY") else None


def _backend(name: str, old: Values) -> Values:
    """Return our backend with the model and the form of input that belong to it."""
    if name == "LLM_PROVIDER" and old[name].strip().lower() not in ("openai", "runpod", "local"):
        raise ValueError("give openai, runpod or local")
    if name.startswith("USE_"):
        is_true(old[name])
    backend = backend_of(old)
    if backend is None:
        return {}
    default = OPENAI_DEFAULT_MODEL if backend == "openai" else LLM_DEFAULT_MODEL
    model = old.get("OPENAI_MODEL" if backend == "openai" else "LLM_MODEL") or default
    found = {"BATCH_LLM_BACKEND": backend, "BATCH_LLM_MODEL": model}
    return {**found, "RUNPOD_INPUT": "prompt"} if backend == "runpod" else found


def _model(backends: tuple[str, ...], name: str, old: Values) -> Values:
    return _backend(name, old) if backend_of(old) in backends else {}


def _renamed(successor: str, name: str, old: Values) -> Values:
    return {successor: old[name].strip()}


def _switch(names: tuple[str, ...], successor: str, _name: str, old: Values) -> Values:
    """Return one switch for those of several tasks: on, if one of them was."""
    given = [is_true(old[name]) for name in (*names, successor) if old.get(name)]
    return {successor: "true" if any(given) else "false"}


def _whole(name: str, old: Values, least: int = 1) -> int:
    try:
        value = int(old[name].strip())
    except ValueError:
        value = least - 1
    if value < least:
        raise ValueError(f"give a whole number of at least {least}")
    return value


def _attempts(name: str, old: Values) -> Values:
    return {"BATCH_ATTEMPTS": str(max(1, _whole(name, old, 0)))}


def _engine(_name: str, old: Values) -> Values:
    if backend_of(old) != "vllm-engine":
        return {}
    given = {argument: _whole(name, old) for name, argument in _ENGINE.items() if old.get(name)}
    return {"VLLM_ENGINE_ARGUMENTS": json.dumps(given)}


def _embedding(name: str, old: Values) -> Values:
    return {"BATCH_EMBEDDER": "fastembed", "BATCH_EMBEDDING_MODEL": old[name].strip()}


def _sparse(name: str, old: Values) -> Values:
    is_bm25 = old[name].strip().lower().endswith("bm25")
    return {"BATCH_SPARSE_EMBEDDER": "bm25" if is_bm25 else "hashing"}


def _averages(_name: str, old: Values) -> Values:
    shares = {aspect: _share(old.get(name) or default) for name, (aspect, default) in _AVERAGES.items()}
    return {"BATCH_AVERAGES": ",".join(f"{aspect}={share:g}" for aspect, share in shares.items())}


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError("give a share above 0 and at most 1")
    return share


def _qdrant(name: str, old: Values) -> Values:
    """Return the location of the collection: a server, or a folder of qdrant-client, which `QDRANT_URL` may name."""
    found = {"BATCH_SEARCH_BACKEND": "qdrant", "QDRANT_URL": old[name].strip()}
    if not old.get("COLLECTION_NAME") and not old.get("QDRANT_COLLECTION"):
        found["QDRANT_COLLECTION"] = DEFAULT_COLLECTION
    if not old.get("EMBEDDING_MODEL"):
        found |= {"BATCH_EMBEDDER": "fastembed", "BATCH_EMBEDDING_MODEL": DEFAULT_EMBEDDING_MODEL}
    return found if old.get("SPARSE_EMBEDDING_MODEL") else {**found, "BATCH_SPARSE_EMBEDDER": "bm25"}


_ENGINE = {"VLLM_TENSOR_PARALLEL_SIZE": "tensor_parallel_size", "VLLM_MAX_MODEL_LEN": "max_model_len"}
_AVERAGES = {"ALL_AVERAGE_SERVICE_RATIO": ("service", "0.6"), "ALL_AVERAGE_PRICE_RATIO": ("price", "0.55")}
_LLM_SWITCHES = ("SUMMARY_LLM_ASYNC", "SENTIMENT_LLM_ASYNC")
_SEARCH_SWITCHES = ("SUMMARY_SEARCH_ASYNC", "COMPARISON_ASYNC")
_ITEM_SWITCHES = ("SUMMARY_RESTAURANT_ASYNC", "SENTIMENT_RESTAURANT_ASYNC", "COMPARISON_BATCH_ASYNC")

_ONE_STRATEGY = "one strategy holds for all tasks: on, if it was for one of them"
_NO_CLASSIFIER = "there is no classifier: the model of the summaries labels each review"
_NO_QUEUE = "calls are always admitted by the item's `priority`, then in the order of items"
_NO_GPU = (
    "no model runs in this process but that of BATCH_LLM_BACKEND=vllm-engine, whose arguments are "
    "VLLM_ENGINE_ARGUMENTS; CUDA_VISIBLE_DEVICES chooses the GPU"
)
_NO_WATCHDOG = "it belonged to a watchdog beside the service; RunPod serverless stops idle workers by itself"
_NO_METRICS = "observers, the statistics of a report and OpenTelemetry show what runs"
_BACKEND = ("BATCH_LLM_BACKEND", "BATCH_LLM_MODEL", "RUNPOD_INPUT")


def _switches(names: tuple[str, ...], successor: str) -> dict[str, Former]:
    return {
        name: Former(_ONE_STRATEGY, partial(_switch, names, successor), (successor,), merges=True)
        for name in names
    }


def _group(note: str, *names: str, is_general: bool = False) -> dict[str, Former]:
    return {name: Former(note, is_general=is_general) for name in names}


def _one(
    name: str, note: str, translate: Translate, *successors: str, is_general: bool = False
) -> dict[str, Former]:
    return {name: Former(note, translate, successors, is_general)}


FORMER: Mapping[str, Former] = MappingProxyType(
    {
        # Model
        **_one("LLM_PROVIDER", "BATCH_LLM_BACKEND names the service", _backend, *_BACKEND, is_general=True),
        **_one("USE_RUNPOD", "BATCH_LLM_BACKEND names the service", _backend, *_BACKEND),
        **_one(
            "USE_POD_VLLM", "BATCH_LLM_BACKEND=vllm-engine runs vLLM in this process", _backend, *_BACKEND
        ),
        **_one(
            "LLM_MODEL",
            "BATCH_LLM_MODEL is the model of the service that is used; this one was that of RunPod and vLLM",
            partial(_model, ("runpod", "vllm-engine")),
            *_BACKEND,
            is_general=True,
        ),
        **_one(
            "OPENAI_MODEL",
            "BATCH_LLM_MODEL is the model of the service that is used; this one was that of OpenAI",
            partial(_model, ("openai",)),
            *_BACKEND,
            is_general=True,
        ),
        **_group(
            "no second service is called in silence: choose one with BATCH_LLM_BACKEND, and run again with the same "
            "BATCH_STORE what has failed",
            "ENABLE_OPENAI_FALLBACK",
        ),
        **{
            name: Former("an argument of the engine in this process", _engine, ("VLLM_ENGINE_ARGUMENTS",))
            for name in _ENGINE
        },
        **_group(_NO_GPU, "USE_GPU", "GPU_DEVICE", "USE_FP16", is_general=True),
        # Retries, batches
        **_one(
            "MAX_RETRIES",
            "BATCH_ATTEMPTS counts the first attempt too",
            _attempts,
            "BATCH_ATTEMPTS",
            is_general=True,
        ),
        **_group(
            "there is no second call that rewords an answer; BATCH_LLM_TIMEOUT limits every call",
            "LLM_POLISH_TIMEOUT_SECONDS",
        ),
        **_one(
            "LLM_BATCH_SIZE",
            "reviews of a batch of sentiment; without it batches are packed by tokens",
            partial(_renamed, "BATCH_SENTIMENT_BATCH_SIZE"),
            "BATCH_SENTIMENT_BATCH_SIZE",
        ),
        **_group(_NO_QUEUE, "VLLM_USE_PRIORITY_QUEUE", "VLLM_PRIORITY_BY_PREFILL_COST"),
        # Modes
        **_switches(_LLM_SWITCHES, "LLM_ASYNC"),
        **_switches(_SEARCH_SWITCHES, "BATCH_SEARCH_ASYNC"),
        **_switches(_ITEM_SWITCHES, "BATCH_RESTAURANT_ASYNC"),
        # Sentiment
        **_group(
            _NO_CLASSIFIER,
            "SENTIMENT_MODEL",
            "SENTIMENT_CLASSIFIER_USE_THREAD",
            "SENTIMENT_FORCE_CPU",
            "SCORE_THRESHOLD",
        ),
        **_group("nothing is sampled: every review that is given is labelled", "ENABLE_SENTIMENT_SAMPLING"),
        **_one(
            "SENTIMENT_RECENT_TOP_K",
            "reviews that a search finds for a restaurant that is given without any",
            partial(_renamed, "BATCH_SENTIMENT_LIMIT"),
            "BATCH_SENTIMENT_LIMIT",
        ),
        # Search
        **_one(
            "COLLECTION_NAME",
            "QDRANT_COLLECTION names the collection",
            partial(_renamed, "QDRANT_COLLECTION"),
            "QDRANT_COLLECTION",
            is_general=True,
        ),
        **_one(
            "EMBEDDING_MODEL",
            "the model runs in this process, by fastembed",
            _embedding,
            "BATCH_EMBEDDER",
            "BATCH_EMBEDDING_MODEL",
            is_general=True,
        ),
        **_group(
            "the model decides it; BATCH_EMBEDDING_SIZE is for the embedders hashing and api",
            "EMBEDDING_DIM",
            is_general=True,
        ),
        **_one(
            "SPARSE_EMBEDDING_MODEL",
            "bm25 for a collection that was made with Qdrant/bm25; hashing knows Korean stems",
            _sparse,
            "BATCH_SPARSE_EMBEDDER",
            is_general=True,
        ),
        **_group(
            "a property of the collection, which keeps it; it is set where the collection is created",
            "QDRANT_VECTORS_ON_DISK",
        ),
        # Comparison
        **{
            name: Former(
                "the average shares that restaurants are compared with", _averages, ("BATCH_AVERAGES",)
            )
            for name in _AVERAGES
        },
        **_group(
            "the averages are those of the reviews that are indexed, or BATCH_AVERAGES",
            "ALL_AVERAGE_ASPECT_DATA_PATH",
        ),
        # Operation
        **_group(
            "nothing is skipped by time: BATCH_STORE keeps every answer, and an equal call is not made again",
            "SKIP_MIN_INTERVAL_SECONDS",
        ),
        **_group(
            _NO_WATCHDOG,
            "RUNPOD_POD_ID",
            "IDLE_THRESHOLD",
            "CHECK_INTERVAL",
            "IDLE_LIMIT",
            "MIN_RUNTIME",
            is_general=True,
        ),
    }
)
"""Every variable that the source service read and that is no setting, but those of `PREFIXES`."""

PREFIXES: Mapping[str, Former] = MappingProxyType(
    _group(_NO_METRICS, "METRICS_", "CPU_MONITOR_", is_general=True)
)
"""Beginnings of names of which the source service read several."""

SHARED: Mapping[str, Former] = MappingProxyType(
    {
        **_one(
            "QDRANT_URL",
            "a server, or a folder of qdrant-client; with the collection and the embedders that were the defaults",
            _qdrant,
            "BATCH_SEARCH_BACKEND",
            "QDRANT_URL",
            "QDRANT_COLLECTION",
            "BATCH_EMBEDDER",
            "BATCH_EMBEDDING_MODEL",
            "BATCH_SPARSE_EMBEDDER",
        ),
        **_one(
            "OPENAI_API_KEY",
            "the key; OpenAI was the service if nothing else named one",
            partial(_model, ("openai",)),
            *_BACKEND,
        ),
        **_one(
            "RUNPOD_ENDPOINT_ID",
            "the endpoint; its workers take a prompt, unless they run worker-vllm: then set RUNPOD_INPUT=chat",
            lambda name, old: {name: old[name].strip(), **_backend(name, old)},
            "RUNPOD_ENDPOINT_ID",
            *_BACKEND,
        ),
    }
)
"""Variables that are settings too, and that decided there what other settings decide here."""


def former_of(name: str) -> Former | None:
    """Return a former variable by its name; None if it is none."""
    prefixed = (former for prefix, former in PREFIXES.items() if name.startswith(prefix))
    return FORMER.get(name) or next(prefixed, None)
