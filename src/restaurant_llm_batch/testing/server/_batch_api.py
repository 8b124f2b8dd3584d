"""OpenAI's files and batches on the fault server, with the response formats of the official service."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qs

from ._batches import ENDED, HIDDEN_FOR, MAX_BYTES, BatchQueue, ServerBatch, ServerFile
from ._requests import read_json
from ._responses import PlannedResponse, json_response, openai_error
from ._service import FaultService

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(rb'\bname="([^"]*)"')
_FILE_NAME = re.compile(rb'\bfilename="([^"]*)"')
_ENDPOINT = "/v1/chat/completions"
_PAGE = 100


class Batches:
    """The files and batches API; it shares its `FaultService` with the chat API."""

    def __init__(self, service: FaultService) -> None:
        self._service = service
        self._queue: BatchQueue = service.batches

    def answer(
        self, method: str, path: str, query: str, content_type: str, raw: bytes, now: float
    ) -> PlannedResponse:
        """Plan the response to a request; `path` begins after ``/v1/``."""
        parts = path.strip("/").split("/")
        with self._service.lock:
            match method, parts:
                case "POST", ["files"]:
                    return self._upload(content_type, raw)
                case "GET", ["files", file_id]:
                    return self._of_file(file_id, lambda file: json_response(file.as_dict()))
                case "GET", ["files", file_id, "content"]:
                    return self._of_file(file_id, _content)
                case "DELETE", ["files", file_id]:
                    return self._delete(file_id)
                case "POST", ["batches"]:
                    return self._create(raw, now)
                case "GET", ["batches"]:
                    return self._list(query, now)
                case "GET", ["batches", batch_id]:
                    return self._of_batch(batch_id, now)
                case "POST", ["batches", batch_id, "cancel"]:
                    return self._cancel(batch_id, now)
            return openai_error(404, f"no {method} of /v1/{path} here", "NotFoundError")

    def _upload(self, content_type: str, raw: bytes) -> PlannedResponse:
        fields = _form(content_type, raw)
        name, content = fields.get("file", ("", b""))
        if not name or fields.get("purpose", ("", b""))[1] != b"batch":
            return openai_error(400, "a file and purpose=batch are required", "invalid_request_error")
        if len(content) > MAX_BYTES:
            return openai_error(413, "the file is too large", "invalid_request_error")
        return json_response(self._queue.add_file(name, content).as_dict())

    def _of_file(self, file_id: str, answer: Callable[[ServerFile], PlannedResponse]) -> PlannedResponse:
        file = self._queue.files.get(file_id)
        if file is None or file.hidden:
            if file is not None:
                file.hidden -= 1
            return openai_error(404, f"No such File object: {file_id}", "invalid_request_error")
        return answer(file)

    def _delete(self, file_id: str) -> PlannedResponse:
        if self._queue.files.pop(file_id, None) is None:
            return openai_error(404, f"No such File object: {file_id}", "invalid_request_error")
        return json_response({"id": file_id, "object": "file", "deleted": True})

    def _create(self, raw: bytes, now: float) -> PlannedResponse:
        body = read_json(raw)
        body = body if isinstance(body, dict) else {}
        faults, made = self._service.faults, len(self._queue.all)
        fault = faults.batch_faults[made] if made < len(faults.batch_faults) else None
        file = self._queue.files.get(str(body.get("input_file_id")))
        is_hidden = file is not None and fault == "file_hidden" and file.refused < HIDDEN_FOR
        if file is None or is_hidden:
            if file is not None:
                file.refused += 1
            message = f"No such File object: {body.get('input_file_id')}"
            return openai_error(400, message, "invalid_request_error", "invalid_request")
        if body.get("endpoint") != _ENDPOINT:
            return openai_error(400, f"endpoint must be {_ENDPOINT}", "invalid_request_error")
        self._service.record_fault(fault, (str(fault),))
        batch = self._queue.create(
            file, _ENDPOINT, body.get("metadata"), fault, faults.batch_seconds, faults.enqueued_tokens, now
        )
        answer = json_response(batch.as_dict())
        return replace(answer, delivery="disconnect") if fault == "batch_lost" else answer

    def _list(self, query: str, now: float) -> PlannedResponse:
        asked = parse_qs(query)
        limit = min(_PAGE, int(asked.get("limit", ["20"])[0]))
        after = asked.get("after", [""])[0]
        newest_first = [one for one in reversed(self._queue.all.values()) if one.fault != "batch_vanishes"]
        places = [place for place, one in enumerate(newest_first, 1) if one.id == after]
        page = newest_first[places[0] if places else 0 :]
        data = [self._queue.look(one, now).as_dict() for one in page[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return json_response({"object": "list", "data": data, **ends, "has_more": len(page) > limit})

    def _found(self, batch_id: str) -> ServerBatch | PlannedResponse:
        batch = self._queue.all.get(batch_id)
        if batch is None or batch.fault == "batch_vanishes":
            return openai_error(404, f"No batch found with id '{batch_id}'.", "invalid_request_error")
        return batch

    def _of_batch(self, batch_id: str, now: float) -> PlannedResponse:
        batch = self._found(batch_id)
        return (
            batch
            if isinstance(batch, PlannedResponse)
            else json_response(self._queue.look(batch, now).as_dict())
        )

    def _cancel(self, batch_id: str, now: float) -> PlannedResponse:
        batch = self._found(batch_id)
        if isinstance(batch, PlannedResponse):
            return batch
        if self._queue.look(batch, now).status in ENDED:
            message = f"Cannot cancel a batch with status '{batch.status}'."
            return openai_error(409, message, "invalid_request_error")
        return json_response(self._queue.cancel(batch, now).as_dict())


def _content(file: ServerFile) -> PlannedResponse:
    return PlannedResponse(file.content, content_type="application/octet-stream")


def _form(content_type: str, raw: bytes) -> dict[str, tuple[str, bytes]]:
    """Return the fields of a multipart form: the name of the file, if it is one, and the value."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return {}
    fields: dict[str, tuple[str, bytes]] = {}
    for part in raw.split(b"--" + found[1].encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name, file = _NAME.search(head), _FILE_NAME.search(head)
        if name is not None:
            fields[name[1].decode()] = "" if file is None else file[1].decode(), value.removesuffix(b"\r\n")
    return fields
