"""OpenAI's batch service: files and batches through the official SDK, for the engine's waves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from ..._engine.wave_file import writing_file
from ..._engine.wave_service import BatchState, FileNotVisible
from ..._http.abort import TotalTimeout, abortable
from ..._http.border import leaving
from ..._http.secrets import Secret
from ..._http.status import Unreadable, parse_body, unreadable_error
from ..._http.types import Timeout
from ..._llm_response import LLMResponse
from ...errors import BackendError, PermanentBackendError, TransientBackendError
from ...models import LLMRequest
from ..openai._clients import SDKClients
from ..openai._codec import backend_error
from ..openai.llm import OpenAILLM
from ._codec import (
    BACKEND,
    ENDPOINT,
    WAVE,
    decode_line,
    encode_line,
    read_answer,
    read_batch,
    request_of,
    says_file_is_missing,
)

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")

log = logging.getLogger("restaurant_llm_batch")

_NO_RETRIES: Any = {"max_retries": 0}
_PAGE, _MAX_PAGES = 100, 20
_MAX_FILE = 8 * 2**30
"""Bytes of a file of answers; 50,000 answers of 4,000 tokens have about one GiB."""
_CANCEL_WAITS = (1.0, 3.0)
"""Seconds after which a cancellation that fails in a passing way is tried again."""
_FILE_SECONDS = 1800.0
"""Seconds for the upload or the download of a file of 200 MB, at about 1 Mbit/s."""
_HAS_ENDED = (400, 404, 409)
"""Statuses of a cancellation that comes too late."""


class FileClients(SDKClients):
    """Clients for files, which have hundreds of megabytes: bodies are not held in memory."""

    def _make_sync(self) -> OpenAI:
        from openai import OpenAI

        from ..openai._adapter import streaming_http

        http = streaming_http(self._timeout, self._account["base_url"])
        return OpenAI(api_key=self._key.reveal(), **self._account, max_retries=0, http_client=http)


class OpenAIBatchService:
    """
    The service, as the engine uses it; a `WaveService`.

    Args:
        online: Makes single calls, and knows the bodies of requests.
        clients: Makes and closes the SDK's clients.
        files: Likewise, for requests that carry a file.
        url: The service's base URL.
        secret: The key.
        timeout: Timeouts of a request that has no file.
        limits: The attributes of the same names.
    """

    def __init__(
        self,
        online: OpenAILLM,
        clients: SDKClients,
        files: FileClients,
        url: str,
        secret: Secret | None,
        timeout: Timeout,
        *,
        max_lines: int,
        max_bytes: int,
        max_enqueued_tokens: int | None,
        min_wave: int,
        online_rest: bool,
        wait_at_most: float | None,
        on_stop: Literal["cancel", "keep"],
    ) -> None:
        self.name: str = f"{BACKEND}:{blake2b(url.encode(), digest_size=6).hexdigest()}"
        self.online: OpenAILLM = online
        self.max_lines = max_lines
        self.max_bytes = max_bytes
        self.max_enqueued_tokens = max_enqueued_tokens
        self.min_wave = min_wave
        self.online_rest = online_rest
        self.wait_at_most = wait_at_most
        self.on_stop: Literal["cancel", "keep"] = on_stop
        self._clients = clients
        self._files = files
        self._secret = secret
        self._timeout = timeout
        self._cancelling: list[threading.Thread] = []

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model: online or not, the reply is the same."""
        return self.online.fingerprint

    # Codec

    def write(self, custom_id: str, request: LLMRequest) -> bytes:
        """Return a line for a request."""
        return encode_line(custom_id, self.online.request_body(request))

    def read(self, line: bytes, task: str) -> LLMRequest:
        """Return the request of a line."""
        return request_of(decode_line(line)[1], task)

    def rewrite(self, line: bytes) -> bytes:
        """Return a line without the fields that the model is known to refuse."""
        custom_id, body = decode_line(line)
        changed = self.online.learned_fields.apply(body)
        return line if changed is body else encode_line(custom_id, changed)

    def learns(self, line: bytes, error: Exception) -> bool:
        """Learn from a refusal which fields to leave out; return whether the line may be answered without them."""
        body = decode_line(line)[1]
        return isinstance(error, PermanentBackendError) and self.online.learned_fields.learn(
            error, body, body
        )

    def read_answer(self, raw: bytes) -> tuple[str, LLMResponse | Exception] | None:
        """Return the id and the answer of a line of an output or an error file."""
        return read_answer(raw, self._secret)

    # Requests

    def upload(self, file: BinaryIO, name: str) -> str:
        """Upload a file of lines, and return its id."""

        def send(client: OpenAI) -> Any:
            return client.files.create(
                file=(name, file, "application/jsonl"), purpose="batch", timeout=_FILE_SECONDS
            ).id

        file_id = self._call(send, _FILE_SECONDS, self._files)
        if not isinstance(file_id, str) or not file_id:
            raise TransientBackendError(f"{BACKEND}: the service gave the file no id", backend=BACKEND)
        return file_id

    def create(self, file_id: str, wave: str) -> BatchState:
        """
        Create the batch of a wave, which carries the wave's name.

        Raises:
            FileNotVisible: The service does not find the file yet.
            BackendError: The batch may have been made if the error is a transient one.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {WAVE: wave},
        }
        try:
            return self._batch(lambda client: _post(client, "/batches", body))
        except PermanentBackendError as error:
            if not says_file_is_missing(error):
                raise
            raise FileNotVisible(str(error), backend=BACKEND, status=error.status) from error

    def look(self, batch_id: str) -> BatchState:
        """Look at a batch."""
        return self._batch(lambda client: _get(client, f"/batches/{batch_id}"))

    def find(self, wave: str, file_id: str) -> BatchState | None:
        """Return the batch with the name of a wave, or with its file, among the latest ones."""
        after = ""
        for _ in range(_MAX_PAGES):
            about = {"limit": _PAGE, **({"after": after} if after else {})}
            page = self._json(lambda client, about=about: _get(client, "/batches", about))  # type: ignore[misc]
            listed = page.get("data") if isinstance(page, dict) else None
            batches = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
            for batch in batches:
                metadata = batch.get("metadata")
                named = isinstance(metadata, dict) and metadata.get(WAVE) == wave
                if named or (file_id and batch.get("input_file_id") == file_id):
                    return read_batch(batch, self._secret)
            after = str(batches[-1].get("id") or "") if batches else ""
            if not after or not page.get("has_more"):
                break
        return None

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch; one that has ended stays as it is."""
        try:
            self._json(lambda client: _post(client, f"/batches/{batch_id}/cancel", {}))
        except BackendError as error:
            if error.status not in _HAS_ENDED:
                raise

    def cancel_later(self, batch_ids: list[str]) -> None:
        """Cancel batches in a thread, which the end of the process waits for."""
        thread = threading.Thread(
            target=self._cancel_all, args=(batch_ids,), name="restaurant-llm-batch-cancel"
        )
        thread.daemon = False
        self._cancelling = [one for one in self._cancelling if one.is_alive()] + [thread]
        try:
            thread.start()
        except RuntimeError:  # the interpreter exits, or the system has no thread
            self._cancel_all(batch_ids)

    def _cancel_all(self, batch_ids: list[str]) -> None:
        for batch_id in batch_ids:
            try:
                self._cancel_now(batch_id)
            except Exception as error:
                # Not the error's text: only the border of a backend logs what services say.
                kind = type(error).__name__
                log.warning("batch %r could not be cancelled, and goes on at the service: %s", batch_id, kind)

    def _cancel_now(self, batch_id: str) -> None:
        """Cancel a batch, which costs money as long as it goes on: a service that is busy is asked again."""
        for wait in _CANCEL_WAITS:
            try:
                return self.cancel(batch_id)
            except TransientBackendError:
                time.sleep(wait)
        return self.cancel(batch_id)

    def fetch(self, file_id: str, into: BinaryIO) -> None:
        """Write the content of a file into another one, piece by piece."""

        def read(client: OpenAI) -> None:
            streamed = client.files.with_streaming_response.content(file_id, timeout=_FILE_SECONDS)
            size = 0
            with streamed as response:
                for piece in response.iter_bytes():
                    size += len(piece)
                    if size > _MAX_FILE:
                        raise PermanentBackendError(
                            f"a file of more than {_MAX_FILE:,} bytes", backend=BACKEND
                        )
                    with writing_file():
                        into.write(piece)

        try:
            self._call(read, _FILE_SECONDS, self._files)
        except PermanentBackendError as error:
            if error.status != 404:
                raise
            raise FileNotVisible(str(error), backend=BACKEND, status=404) from error

    def forget(self, file_id: str) -> None:
        """Delete a file."""
        self._call(lambda client: client.files.delete(file_id), self._timeout.total)

    def close(self) -> None:
        """Wait for cancellations that are under way, and close the connections."""
        for thread in self._cancelling:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        self._cancelling = []
        self._clients.close()
        self._files.close()

    def _batch(self, send: Callable[[OpenAI], Any]) -> BatchState:
        return read_batch(self._json(send), self._secret)

    def _json(self, send: Callable[[OpenAI], Any]) -> Any:
        response = self._call(send, self._timeout.total)
        body = parse_body(response.content)
        if isinstance(body, Unreadable):
            raise unreadable_error(body, BACKEND, self._secret, None)
        return body

    def _call(self, send: Callable[[OpenAI], T], seconds: float, clients: SDKClients | None = None) -> T:
        from httpx2 import HTTPError
        from openai import OpenAIError

        failure: Exception
        try:
            with (clients or self._clients).sync_client() as client, abortable(seconds):
                return send(client)
        except OpenAIError as error:
            failure = backend_error(error)
        except TotalTimeout:
            failure = TransientBackendError(
                f"{BACKEND} did not answer within {seconds:g} seconds", backend=BACKEND
            )
        except HTTPError as error:  # while the content of a file is read
            failure = TransientBackendError(f"{BACKEND}: the connection was lost: {error}", backend=BACKEND)
        except Exception as error:
            failure = error
        raise leaving(failure, BACKEND, self._secret, self._clients.proxy_secrets)


def _post(client: OpenAI, path: str, body: dict[str, Any]) -> Any:
    from httpx2 import Response

    return client.post(path, body=body, cast_to=Response, options=_NO_RETRIES)


def _get(client: OpenAI, path: str, params: dict[str, Any] | None = None) -> Any:
    from httpx2 import Response

    options: Any = {**_NO_RETRIES, "params": params or {}}
    return client.get(path, cast_to=Response, options=options)
