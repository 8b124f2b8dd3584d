"""OpenAI batch LLM backend: the calls of all open flows go as lines of provider batches, at half the price."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Literal

from anyio import get_cancelled_exc_class, to_thread

from ..._engine.memo import WaitForCallback
from ..._engine.wave_flow import carry
from ..._engine.wave_host import WaveRun
from ..._engine.wave_service import WaveService
from ..._engine.waves import AGAIN, ONLINE, Waves
from ..._http.secrets import KeyLike, as_secret
from ..._http.types import Timeout, as_timeout
from ..._llm_response import LLMResponse
from ..._validation import is_number
from ...cancellation import CancelToken, run_with_token, sleep
from ...errors import ConfigurationError
from ...models import LLMRequest
from ...steps import Sleep, drive
from ..openai._clients import SDKClients
from ..openai.llm import OpenAILLM
from ._batch_service import FileClients, OpenAIBatchService

MAX_LINES, MAX_BYTES = 50_000, 190_000_000
"""What the service takes, but for a twentieth of the 200 MB, in whatever unit these are counted."""
DEFAULT_TIMEOUT = Timeout(total=60.0)


class OpenAIBatchLLM:
    """
    A model of OpenAI through its batches, or of a service with the same API: half the price, within a day.

        llm = OpenAIBatchLLM("gpt-5-mini")

    With a `BatchRunner`, the calls of all open items are lines of one file, a wave. It is sent when no item can go on
    without an answer, or when it is full; so a task of two steps takes two waves, however many items there are. A line
    holds no slot, and its prompt is in a temporary file: the window is as wide as a wave needs, unless
    `Limits.open_items` is given. Use a strategy with restaurants side by side, such as ``Strategy.stage(4)``; one by
    one, each restaurant takes waves of its own, and in stage 1 each call.

    With a store, what is at the service is written down before it can be lost: after a kill, the next run finds the
    batches, collects them, and pays for nothing twice. Without one, a warning is logged.

    Lines that fail for a passing reason go into the next wave, as attempts of their calls (`RetryPolicy`). So do
    answers that cannot be used, and lines of a batch that has expired, is incomplete, or has vanished. A batch that
    exceeds the account's enqueued tokens is sent in halves. `TimeLimits.call` does not apply to lines; see
    `wait_at_most`.

    Args:
        model: The model's name.
        base_url: The service's base URL including ``/v1``; None for ``OPENAI_BASE_URL`` or OpenAI's own.
        api_key: The key, as text or as pydantic's ``SecretStr``; None for ``OPENAI_API_KEY``.
        min_wave: A wave of fewer lines is not worth a batch; with `online_rest`, its calls are made online.
        online_rest: Whether the calls of small waves, and those that are late, are made online, at full price.
        wait_at_most: Seconds for a batch, as a number or a timedelta, from when this run has made or found it; then it
            is cancelled unless another process waits for it too, what it has answered is used, and the other calls are
            made online if `online_rest`, and fail otherwise. None for the service's day.
        on_stop: What happens to batches if the run ends early. "cancel" ends them at the service; with a store, the
            next run still collects what they had answered. "keep" leaves them to the next run, and needs a store.
        max_lines: Most lines of a batch.
        max_bytes: Most bytes of its file.
        max_enqueued_tokens: The account's limit on prompt tokens of all batches at once, by estimate; None to learn it
            from refusals.
        organization: The organization to bill; None for ``OPENAI_ORG_ID``.
        project: The project to bill; None for ``OPENAI_PROJECT_ID``.
        timeout: Seconds for a request to the service, or a `Timeout`; files have half an hour.
        send_temperature: Whether to send the request's temperature; a refusal is learned, at the cost of a wave.
        max_tokens_field: The service's name of the field that limits completion tokens; see `OpenAILLM`.
        extra_body: Further fields of every request, which override all others.

    Raises:
        ConfigurationError: If an argument has the wrong type or value, or there is no key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: KeyLike | None = None,
        min_wave: int = 0,
        online_rest: bool = False,
        wait_at_most: float | timedelta | None = None,
        on_stop: Literal["cancel", "keep"] = "cancel",
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        max_enqueued_tokens: int | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | Timeout = DEFAULT_TIMEOUT,
        send_temperature: bool = True,
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        secret = as_secret(api_key)
        del api_key  # error trackers show the local variables of an error that is raised below
        _check_whole("min_wave", min_wave, 0, 20)
        _check_whole("max_lines", max_lines, 1, MAX_LINES)
        _check_whole("max_bytes", max_bytes, 1000, MAX_BYTES)
        if max_enqueued_tokens is not None:
            _check_whole("max_enqueued_tokens", max_enqueued_tokens, 1, 2_000_000)
        _check_choices(online_rest, on_stop)
        limits: dict[str, Any] = {
            "max_lines": max_lines,
            "max_bytes": max_bytes,
            "max_enqueued_tokens": max_enqueued_tokens,
            "min_wave": min_wave,
            "online_rest": online_rest,
            "wait_at_most": _seconds(wait_at_most),
            "on_stop": on_stop,
        }
        self._online = OpenAILLM(
            model,
            api_key=None if secret is None else secret.reveal(),
            base_url=base_url,
            organization=organization,
            project=project,
            send_temperature=send_temperature,
            max_tokens_field=max_tokens_field,
            extra_body=extra_body,
        )
        url, key = self._online.base_url, self._online.secret
        account = {"base_url": url, "organization": organization, "project": project}
        times = as_timeout(timeout)
        clients, files = SDKClients(key, account, None, times), FileClients(key, account, None, times)
        self._service = OpenAIBatchService(self._online, clients, files, url, key, times, **limits)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._online.model

    @property
    def fingerprint(self) -> str:
        """Cache key of this backend in a store: the same as that of an `OpenAILLM`, whose replies it shares."""
        return self._online.fingerprint

    @property
    def model_fingerprint(self) -> str:
        """What its replies have in common with those of the same model at another address."""
        return self._online.model_fingerprint

    @property
    def wave_service(self) -> WaveService:
        """The service, for the runner, which sends the calls of all open items to it together."""
        return self._service

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self._online.base_url!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete one request by a batch of its own, blocking the thread until the batch has ended.

        A runner does not call this: it sends the calls of all open items together.

        Raises:
            RunStopped: If the call was cancelled; its batch is cancelled too.
            BackendError: See `OpenAILLM.complete`.
        """
        waves = Waves(self._service, None, _ALONE, carry)
        line, _ = waves.enter(_KEY, request)
        try:
            while not line.answered or line.result is AGAIN:
                if line.answered:  # a field of it was refused, and is left out now
                    old, (line, _) = line, waves.enter_again(line)
                    waves.leave(old)
                waves.flush()
                if line.answered:
                    continue  # it is to be called online
                flows = waves.inline_flows or deque()
                if not flows:
                    raise RuntimeError("a line waits, and no wave carries it")
                while flows:
                    drive(flows.popleft(), _perform)
        finally:
            waves.leave(line)
            waves.close()
        if line.result is ONLINE:
            return self._online.complete(request)
        if isinstance(line.result, Exception):
            raise line.result
        reply: LLMResponse = line.result
        return reply

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Complete one request by a batch of its own, without blocking the event loop; see `complete`."""
        token = CancelToken()
        work = partial(run_with_token, token, partial(self.complete, request))
        try:
            return await to_thread.run_sync(work, abandon_on_cancel=True)
        except get_cancelled_exc_class():
            token.set()
            raise

    def close(self) -> None:
        """Wait until batches of runs that were stopped are cancelled, and close the connections."""
        self._online.close()
        self._service.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections; see `close`."""
        await self._online.aclose()
        await to_thread.run_sync(self._service.close)


_KEY = b"0" * 16


def _perform(step: Any) -> Any:
    """Perform a step of a flow that carries a wave, in the calling thread."""
    if isinstance(step, WaitForCallback):
        done: list[Any] = []
        step.subscribe(done.append)
        return done[0]
    if isinstance(step, Sleep):
        sleep(step.seconds)
    return None


def _nothing(*_: object) -> int:
    """Do nothing: there is no run that could stop or stall, and a single line is sent whatever its size."""
    return 0


_ALONE = WaveRun(monotonic, _nothing, _nothing, _nothing, lambda: (inf, ""))
"""What the wave of a single request needs."""


def _seconds(wait: float | timedelta | None) -> float | None:
    if wait is None:
        return None
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if not is_number(seconds) or not seconds > 0:
        raise ConfigurationError(
            f"wait_at_most must be a number of seconds above 0, a timedelta or None, got {wait!r}; "
            "for example wait_at_most=6 * 3600"
        )
    return float(seconds)


def _check_whole(name: str, value: object, least: int, example: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}, got {value!r}; for example {name}={example}"
        )


def _check_choices(online_rest: object, on_stop: object) -> None:
    if not isinstance(online_rest, bool):
        raise ConfigurationError(f"online_rest must be True or False, got {online_rest!r}")
    if on_stop not in ("cancel", "keep"):
        raise ConfigurationError(f'on_stop must be "cancel" or "keep", got {on_stop!r}')
