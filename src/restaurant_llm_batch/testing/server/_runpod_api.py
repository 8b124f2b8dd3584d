"""RunPod's job API on the fault server, with the response formats of worker-vllm 2.24 and later."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from . import _chat_api as chat
from ._faults import BAD_ANSWERS, BREAKDOWNS, JOB_FAULTS, ODD_FORMS, REFUSALS, Faults
from ._jobs import VANISHED, ServerJob
from ._requests import read_job, read_json
from ._responses import PlannedResponse, json_response
from ._service import Admitted, FaultService, in_odd_form

_SUBMISSION_FAULTS = frozenset(REFUSALS + BREAKDOWNS) - {"context_length_exceeded", "field_refused"}
"""Faults of the submission; all others are faults of its job."""
_FAULTS_WITHOUT_JOB = _SUBMISSION_FAULTS - {"reset", "slow_body"}
"""Faults of the submission that create no job; with the others the job exists, but its id is lost or late."""
_JOB_REFUSALS = ("context_length_exceeded", "field_refused")
_DELIVERIES = {"submission_lost": "disconnect", "reset": "reset", "slow_body": "slow_body"}
_ENDS = {"job_vanishes": VANISHED, "job_times_out": "TIMED_OUT", "job_is_cancelled": "CANCELLED"}
_ERRORS_AS_OUTPUT: dict[str, object] = {
    "job_completes_with_error": {
        "message": "Connection to the inference server was lost",
        "type": "worker_error",
        "code": 502,
    },
    "job_out_of_memory": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB",
}
"""What the worker returned as the output of a job that RunPod calls completed."""
_RAISED = '{"error_type": "<class \'RuntimeError\'>", "error_message": "CUDA error: an illegal access"}'


class Endpoint:
    """Endpoint of the job API; it shares its `FaultService` with the chat API."""

    def __init__(self, service: FaultService) -> None:
        self._service = service

    def answer(self, operation: str, job_id: str, method: str, raw: bytes, now: float) -> PlannedResponse:
        """Plan the response to an operation."""
        service = self._service
        with service.lock:
            service.jobs.advance(now, service.faults.max_running)
            match operation, method:
                case "run", "POST":
                    return self._run(raw, now)
                case "health", "GET":
                    return self._health()
                case "purge-queue", "POST":
                    return json_response({"removed": service.jobs.purge(), "status": "completed"})
                case ("status", "GET") | ("cancel", "POST"):
                    return self._job_operation(operation, job_id)
            return json_response({"error": f"no {method} of {operation or '/'} here"}, 404)

    def _run(self, raw: bytes, now: float) -> PlannedResponse:
        service = self._service
        body = read_json(raw)
        request = read_job(body)
        if request is None:
            return json_response({"error": "input must be an object with a question in it"}, 400)
        admitted = service.admit(request, len(service.jobs.alive), now)
        if isinstance(admitted, PlannedResponse):
            return admitted
        fault = str(admitted.fault)
        service.record_fault(
            admitted.fault,
            (*_SUBMISSION_FAULTS, *_JOB_REFUSALS, *BAD_ANSWERS, *ODD_FORMS, *JOB_FAULTS),
        )
        if fault in _FAULTS_WITHOUT_JOB:
            return self._failed_submission(fault)
        job = self._job(admitted, body, f"{len(service.jobs.all):08x}-{request.digest}-u1", now)
        service.jobs.add(job, now, service.faults.max_running)
        answer = json_response({"id": job.id, "status": "IN_QUEUE"}, headers=admitted.headers)
        answer = replace(answer, delivery=_DELIVERIES.get(fault, "whole"))  # type: ignore[arg-type]
        return answer if fault == "event_stream" else in_odd_form(answer, fault)

    def _failed_submission(self, fault: str) -> PlannedResponse:
        if fault == "error_as_success":
            return json_response({"error": "the endpoint has no workers"})
        response = chat.breakdown(fault, self._service.faults)
        return response or PlannedResponse(b"", delivery=fault)  # type: ignore[arg-type]

    def _job(self, admitted: Admitted, body: Any, job_id: str, now: float) -> ServerJob:
        faults, seed, fault = self._service.faults, self._service.seed, str(admitted.fault)
        job = ServerJob(
            job_id, admitted.request.digest, "COMPLETED", {}, faults.seconds(admitted.request, seed)
        )
        policy = body.get("policy")
        if isinstance(policy, dict):
            job.dies_at = now + _seconds(policy.get("ttl"))
            job.lasts = _seconds(policy.get("executionTimeout"))
        match fault:
            case "job_fails":
                job.end, job.more = "FAILED", {"error": _RAISED}
            case "job_fails_for_now" | "context_length_exceeded":
                job.end, job.more = "FAILED", {"error": _from_vllm(fault, faults)}
            case "field_refused":
                job.end, job.more = "FAILED", {"error": _from_vllm(fault, faults)}
            case "job_stays_queued":
                job.starts = False
            case "job_never_ends":
                job.end = None
            case "poll_fails" | "cancel_fails":
                job.trouble.add("status" if fault == "poll_fails" else "cancel")
        job.end = _ENDS.get(fault, job.end)
        if job.end == "COMPLETED":
            output: object
            if fault in _ERRORS_AS_OUTPUT:
                output = {"error": _ERRORS_AS_OUTPUT[fault]}
            else:
                output, job.usage = self._service.complete(admitted)
                if fault == "event_stream":
                    output = chat.event_stream(output)
            job.more = {"output": [output], "workerId": "w1", "delayTime": 1, "executionTime": 1}
        return job

    def _job_operation(self, operation: str, job_id: str) -> PlannedResponse:
        job = self._service.jobs.all.get(job_id)
        if job is None or job.status == VANISHED:
            return json_response({"error": "job not found"}, 404)
        if operation in job.trouble:
            job.trouble.discard(operation)
            return json_response({"error": "service unavailable"}, 503)
        if operation == "cancel" and job.alive:
            self._service.jobs.end(job, "CANCELLED")
        more = job.more if job.status == job.end else {}
        usage = job.usage if operation == "status" and job.status == "COMPLETED" else None
        return json_response({"id": job.id, "status": job.status, **more}, usage=usage, job_id=job.id)

    def _health(self) -> PlannedResponse:
        jobs, max_running = self._service.jobs, self._service.faults.max_running
        statuses = [job.status for job in jobs.all.values()]
        running = statuses.count("IN_PROGRESS")
        idle = max(0, (running + 1 if max_running is None else max_running) - running)
        job_counts = {
            "completed": statuses.count("COMPLETED"),
            "failed": statuses.count("FAILED") + statuses.count("TIMED_OUT"),
            "inProgress": running,
            "inQueue": statuses.count("IN_QUEUE"),
            "retried": 0,
        }
        workers = {"idle": idle, "initializing": 0, "ready": idle, "running": running}
        return json_response({"jobs": job_counts, "workers": {**workers, "throttled": 0, "unhealthy": 0}})


def _seconds(milliseconds: object) -> float:
    return milliseconds / 1000 if isinstance(milliseconds, (int, float)) and milliseconds > 0 else inf


def _from_vllm(fault: str, faults: Faults) -> str:
    """Return an error of vLLM as worker-vllm reports it: Python's repr of a dict with vLLM's JSON inside."""
    response = (
        chat.too_long(faults.context or 8192)
        if fault == "context_length_exceeded"
        else chat.field_refused("temperature")
        if fault == "field_refused"
        else chat.breakdown("unavailable", faults)
    )
    assert response is not None
    message = f"vLLM returned HTTP {response.status}: {response.body.decode()}"
    return repr({"message": message, "type": "worker_error", "code": None})
