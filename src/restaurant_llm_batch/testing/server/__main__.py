"""``python -m restaurant_llm_batch.testing.server``."""

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
from ._faults import FAULT_KINDS, Faults, Latency
from .fault_server import FaultServer

_NUMBERS: tuple[tuple[str, type, str], ...] = (
    ("limit", int, "most questions in flight, and most jobs alive; those above are refused"),
    ("requests-per-second", float, "rate of the bucket of requests"),
    ("burst", int, "what that bucket holds (default: a second's worth)"),
    ("tokens-per-minute", int, "rate of the bucket of tokens"),
    ("token-burst", int, "what that bucket holds (default: a minute's worth)"),
    ("max-running", int, "most questions worked on at once; others wait"),
    ("kv-tokens", int, "what the KV cache holds"),
    ("context", int, "the model's context in tokens"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then print the counts as JSON."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        server = FaultServer(
            _faults(asked),
            seed=asked.seed,
            answer=asked.answer,
            model=asked.model,
            api_key=asked.api_key,
            port=asked.port,
        )
    except ConfigurationError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with server:
            _say(f"{server.url}  (OpenAI: {server.openai_url}, RunPod: {server.runpod_url}); Ctrl-C ends it")
            threading.Event().wait()
    except OSError as error:
        parser.error(f"--port {asked.port} cannot be listened on: {error}; leave it out for a free one")
    except KeyboardInterrupt:
        _say(json.dumps(server.counts.as_dict(), indent=2))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m restaurant_llm_batch.testing.server",
        description="A local server that speaks OpenAI's chat API, vLLM's extras and RunPod's job API, and "
        "misbehaves as told. Prints its address, serves until Ctrl-C, then prints what it counted.",
        epilog=f"Kinds of faults: {', '.join(FAULT_KINDS)}.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="where to listen (default: a free port)")
    add("--seed", type=int, default=0, help="decides which questions meet a fault (default: 0)")
    add("--fault", type=_share, action="append", default=[], metavar="KIND=SHARE", help="such as reset=0.05")
    add(
        "--tries", type=int, default=1, help="tries of a question that meet its fault; 0 for all (default: 1)"
    )
    for name, kind, words in _NUMBERS:
        add(f"--{name}", type=kind, help=words)
    add("--refusal", type=int, choices=(429, 503), default=429, help="status above the limit (default: 429)")
    add(
        "--retry-after",
        type=_wait,
        metavar="SECONDS",
        help='what refusals ask for; "exact" for the true time',
    )
    add("--no-rate-headers", action="store_true", help="do not tell what is left in the buckets")
    add("--latency", type=float, default=0.0, help="seconds that an answer or a job takes; their median")
    add("--spread", type=float, default=1.0, help="factor between the median and a slow answer (one sigma)")
    add("--slow", type=float, default=1.0, help="seconds over which a slow body comes (default: 1)")
    add("--answer", choices=("schema", "echo"), default="schema", help="what the model writes")
    add("--model", default="tiny", help="the model's name (default: tiny)")
    add("--api-key", help="the key to ask for (default: any)")
    return parser


def _faults(asked: Namespace) -> Faults:
    given: dict[str, Any] = {name.replace("-", "_"): None for name, *_ in _NUMBERS}
    given = {name: getattr(asked, name) for name in given}
    return Faults(
        probabilities=dict(asked.fault),
        tries=asked.tries or None,
        refusal=asked.refusal,
        retry_after=asked.retry_after,
        rate_headers=not asked.no_rate_headers,
        latency=_latency(asked.latency, asked.spread),
        slow_body_seconds=asked.slow,
        **given,
    )


def _latency(median: float, spread: float) -> Latency:
    if spread < 1:
        raise ConfigurationError(f"--spread must be at least 1, got {spread!r}")
    if spread == 1 or median <= 0:
        return median

    def drawn(random: Random) -> float:
        return median * random.lognormvariate(0.0, log(spread))

    return drawn


def _share(text: str) -> tuple[str, float]:
    kind, _, share = text.partition("=")
    try:
        return kind, float(share)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not KIND=SHARE, such as reset=0.05") from None


def _wait(text: str) -> float | str:
    return text if text == "exact" else float(text)


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
