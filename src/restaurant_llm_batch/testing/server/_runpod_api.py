"""RunPod's job API, as its endpoints and worker-vllm (2.24 and later) speak it."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from . import _chat_api as chat
from ._faults import BAD_ANSWERS, BREAKDOWNS, JOB_FAULTS, REFUSALS, Faults
from ._jobs import VANISHED, ServerJob
from ._requests import read_job, read_json
from ._responses import PlannedResponse, json_response
from ._service import Admitted, FaultService

_TO_THE_SUBMISSION = frozenset(REFUSALS + BREAKDOWNS) - {"context_length_exceeded"}
"""Faults that the submission meets; all others are its job's."""
_WITHOUT_A_JOB = _TO_THE_SUBMISSION - {"reset", "slow_body"}
_DELIVERIES = {"submission_lost": "disconnect", "reset": "reset", "slow_body": "slow_body"}
_ENDS = {"job_vanishes": VANISHED, "job_times_out": "TIMED_OUT", "job_is_cancelled": "CANCELLED"}
_RAISED = '{"error_type": "<class \'RuntimeError\'>", "error_message": "CUDA error: an illegal access"}'


class Endpoint:
    """What is said to the requests of a job API; one desk decides for it and for the chat API."""

    def __init__(self, desk: FaultService) -> None:
        self._desk = desk

    def answer(self, operation: str, job_id: str, method: str, raw: bytes, now: float) -> PlannedResponse:
        """Decide what is said to an operation."""
        desk = self._desk
        with desk.lock:
            desk.jobs.move_on(now, desk.faults.max_running)
            match operation, method:
                case "run", "POST":
                    return self._run(raw, now)
                case "health", "GET":
                    return self._health()
                case "purge-queue", "POST":
                    return json_response({"removed": desk.jobs.purge(), "status": "completed"})
                case ("status", "GET") | ("cancel", "POST"):
                    return self._of_a_job(operation, job_id)
            return json_response({"error": f"no {method} of {operation or '/'} here"}, 404)

    def _run(self, raw: bytes, now: float) -> PlannedResponse:
        desk = self._desk
        body = read_json(raw)
        asked = read_job(body)
        if asked is None:
            return json_response({"error": "input must be an object with a question in it"}, 400)
        let = desk.admit(asked, len(desk.jobs.alive), now)
        if isinstance(let, PlannedResponse):
            return let
        fault = str(let.fault)
        desk.note(let.fault, (*_TO_THE_SUBMISSION, "context_length_exceeded", *BAD_ANSWERS, *JOB_FAULTS))
        if fault in _WITHOUT_A_JOB:
            return self._refused(fault)
        job = self._job(let, body, f"{len(desk.jobs.all):08x}-{asked.digest}-u1", now)
        desk.jobs.add(job, now, desk.faults.max_running)
        answer = json_response({"id": job.id, "status": "IN_QUEUE"}, headers=let.headers)
        return replace(answer, delivery=_DELIVERIES.get(fault, "whole"))  # type: ignore[arg-type]

    def _refused(self, fault: str) -> PlannedResponse:
        if fault == "error_as_success":
            return json_response({"error": "the endpoint has no workers"})
        said = chat.breakdown(fault, self._desk.faults)
        return said or PlannedResponse(b"", delivery=fault)  # type: ignore[arg-type]

    def _job(self, let: Admitted, body: Any, job_id: str, now: float) -> ServerJob:
        faults, seed, fault = self._desk.faults, self._desk.seed, str(let.fault)
        job = ServerJob(job_id, let.asked.digest, "COMPLETED", {}, faults.seconds(let.asked, seed))
        policy = body.get("policy")
        if isinstance(policy, dict):
            job.dies_at = now + _seconds(policy.get("ttl"))
            job.lasts = _seconds(policy.get("executionTimeout"))
        match fault:
            case "job_fails":
                job.end, job.more = "FAILED", {"error": _RAISED}
            case "job_fails_for_now" | "context_length_exceeded":
                job.end, job.more = "FAILED", {"error": _from_vllm(fault, faults)}
            case "job_stays_queued":
                job.starts = False
            case "job_never_ends":
                job.end = None
            case "poll_fails" | "cancel_fails":
                job.trouble.add("status" if fault == "poll_fails" else "cancel")
        job.end = _ENDS.get(fault, job.end)
        if job.end == "COMPLETED":
            output, job.usage = self._desk.completed(let)
            job.more = {"output": [output], "workerId": "w1", "delayTime": 1, "executionTime": 1}
        return job

    def _of_a_job(self, operation: str, job_id: str) -> PlannedResponse:
        job = self._desk.jobs.all.get(job_id)
        if job is None or job.status == VANISHED:
            return json_response({"error": "job not found"}, 404)
        if operation in job.trouble:
            job.trouble.discard(operation)
            return json_response({"error": "service unavailable"}, 503)
        if operation == "cancel" and job.alive:
            self._desk.jobs.end(job, "CANCELLED")
        more = job.more if job.status == job.end else {}
        usage = job.usage if operation == "status" and job.status == "COMPLETED" else None
        return json_response({"id": job.id, "status": job.status, **more}, usage=usage, job_id=job.id)

    def _health(self) -> PlannedResponse:
        jobs, seats = self._desk.jobs, self._desk.faults.max_running
        statuses = [job.status for job in jobs.all.values()]
        working = statuses.count("IN_PROGRESS")
        idle = max(0, (working + 1 if seats is None else seats) - working)
        counted = {
            "completed": statuses.count("COMPLETED"),
            "failed": statuses.count("FAILED") + statuses.count("TIMED_OUT"),
            "inProgress": working,
            "inQueue": statuses.count("IN_QUEUE"),
            "retried": 0,
        }
        workers = {"idle": idle, "initializing": 0, "ready": idle, "running": working}
        return json_response({"jobs": counted, "workers": {**workers, "throttled": 0, "unhealthy": 0}})


def _seconds(milliseconds: object) -> float:
    return milliseconds / 1000 if isinstance(milliseconds, (int, float)) and milliseconds > 0 else inf


def _from_vllm(fault: str, faults: Faults) -> str:
    """Return what the worker makes of an error of vLLM's: Python's repr of a dict with its JSON inside."""
    said = (
        chat.too_long(faults.context or 8192)
        if fault == "context_length_exceeded"
        else chat.breakdown("unavailable", faults)
    )
    assert said is not None
    words = f"vLLM returned HTTP {said.status}: {said.body.decode()}"
    return repr({"message": words, "type": "worker_error", "code": None})
