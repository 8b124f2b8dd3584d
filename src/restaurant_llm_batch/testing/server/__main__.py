"""Command line of the fault server: ``python -m restaurant_llm_batch.testing.server``."""

from __future__ import annotations

import json
import signal
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from math import log
from random import Random
from typing import Any

from ...errors import ConfigurationError
from ._batches import BATCH_FAULTS
from ._faults import FAULT_KINDS, Faults, Latency
from .fault_server import FaultServer

_NUMBERS: tuple[tuple[str, type, str], ...] = (
    ("limit", int, "maximum requests in flight, and maximum live jobs; more are refused"),
    ("requests-per-second", float, "rate of the request bucket"),
    ("burst", int, "capacity of the request bucket (default: one second's requests)"),
    ("tokens-per-minute", int, "rate of the token bucket"),
    ("token-burst", int, "capacity of the token bucket (default: one minute's tokens)"),
    ("max-running", int, "maximum requests processed at once; others wait"),
    ("kv-tokens", int, "capacity of the KV cache in tokens"),
    ("context", int, "context length of the model in tokens"),
    ("enqueued-tokens", int, "prompt tokens of all batches that have not ended; a batch above it fails"),
)
"""Options that are fields of `Faults`: name, type and help."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then print the counts as JSON."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        server = FaultServer(
            _faults(options),
            seed=options.seed,
            answer=options.answer,
            model=options.model,
            api_key=options.api_key,
            port=options.port,
        )
    except ConfigurationError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with server:
            _print(
                f"{server.url}  (OpenAI: {server.openai_url}, RunPod: {server.runpod_url}); Ctrl-C ends it"
            )
            threading.Event().wait()
    except OSError as error:
        parser.error(f"--port {options.port} cannot be listened on: {error}; leave it out for a free one")
    except KeyboardInterrupt:
        _print(json.dumps(server.counts.as_dict(), indent=2))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m restaurant_llm_batch.testing.server",
        description="A local server with OpenAI's chat API, vLLM's extras and RunPod's job API that fails as "
        "configured. Prints its address, serves until Ctrl-C, then prints its statistics.",
        epilog=f"Kinds of faults: {', '.join(FAULT_KINDS)}. Of batches: {', '.join(BATCH_FAULTS)}.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="port to listen on (default: a free port)")
    add("--seed", type=int, default=0, help="decides which requests meet a fault (default: 0)")
    add(
        "--fault",
        type=_probability,
        action="append",
        default=[],
        metavar="KIND=SHARE",
        help="probability of a fault, for example reset=0.05",
    )
    add(
        "--tries",
        type=int,
        default=1,
        help="attempts of a request that meet its fault; 0 for all (default: 1)",
    )
    for name, number_type, help_text in _NUMBERS:
        add(f"--{name}", type=number_type, help=help_text)
    add(
        "--metrics",
        choices=("vllm", "sglang", "tgi"),
        default="vllm",
        help="names in /metrics (default: vllm)",
    )
    add("--refusal", type=int, choices=(429, 503), default=429, help="status above the limit (default: 429)")
    add(
        "--retry-after",
        type=_retry_after,
        metavar="SECONDS",
        help='Retry-After of refusals; "exact" for the true time',
    )
    add("--no-rate-headers", action="store_true", help="send no rate-limit headers")
    add("--latency", type=float, default=0.0, help="median seconds of a reply or a job")
    add("--spread", type=float, default=1.0, help="factor between the median and a slow reply (one sigma)")
    add("--slow", type=float, default=1.0, help="seconds over which a slow body is sent (default: 1)")
    add("--batch-seconds", type=float, default=0.0, help="seconds that a batch takes (default: 0)")
    add(
        "--batch-fault",
        action="append",
        default=[],
        metavar="KIND",
        help='what happens to the first batch, the second, ...; "none" for nothing',
    )
    add("--answer", choices=("schema", "echo"), default="schema", help="text of the replies")
    add("--model", default="tiny", help="name of the model (default: tiny)")
    add("--api-key", help="required API key (default: any)")
    return parser


def _faults(options: Namespace) -> Faults:
    numbers: dict[str, Any] = {
        name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name, *_ in _NUMBERS
    }
    return Faults(
        probabilities=dict(options.fault),
        tries=options.tries or None,
        metrics=options.metrics,
        refusal=options.refusal,
        retry_after=options.retry_after,
        rate_headers=not options.no_rate_headers,
        latency=_latency(options.latency, options.spread),
        slow_body_seconds=options.slow,
        batch_seconds=options.batch_seconds,
        batch_faults=[None if kind == "none" else kind for kind in options.batch_fault],
        **numbers,
    )


def _latency(median: float, spread: float) -> Latency:
    if spread < 1:
        raise ConfigurationError(f"--spread must be at least 1, got {spread!r}")
    if spread == 1 or median <= 0:
        return median

    def draw(random: Random) -> float:
        return median * random.lognormvariate(0.0, log(spread))

    return draw


def _probability(text: str) -> tuple[str, float]:
    kind, _, probability = text.partition("=")
    try:
        return kind, float(probability)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not KIND=SHARE; for example reset=0.05") from None


def _retry_after(text: str) -> float | str:
    return text if text == "exact" else float(text)


def _print(text: str) -> None:
    # Flushed, because a test that starts this program reads the address from a pipe.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
