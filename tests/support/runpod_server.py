"""
A small RunPod: the client's side of its queue, and the side that the SDK's worker loop talks to.

Jobs are worked on by a real worker that takes them, or, with `script`, end by themselves after so long.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from restaurant_llm_batch import LLMRequest
from tests.support.local_server import LocalServer, Say, Seen

KEY = "rpa_SECRETSECRETSECRET"
ALIVE = ("IN_QUEUE", "IN_PROGRESS")
WORKERS = {"idle": 1, "initializing": 0, "ready": 1, "running": 0, "throttled": 0, "unhealthy": 0}


@dataclass
class End:
    """How a scripted job ends, after so many seconds; the last third of them it is in progress."""

    status: str = "COMPLETED"
    after: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Work:
    """A job."""

    id: str
    input: dict[str, Any]
    policy: dict[str, Any]
    status: str = "IN_QUEUE"
    told: dict[str, Any] = field(default_factory=dict)
    made_at: float = 0.0
    end: End | None = None
    stopped: bool = False

    @property
    def question(self) -> str:
        """What the job asks, which tests make unique."""
        if "prompt" in self.input:
            return str(self.input["prompt"])
        return str(self.input["openai_input"]["messages"][-1]["content"])

    def move_on(self) -> None:
        """Let time pass for a scripted job."""
        if self.end is None or self.status not in ALIVE:
            return
        age = time.monotonic() - self.made_at
        if age >= self.end.after:
            self.status = self.end.status
            self.told.update(self.end.more)
        elif age >= self.end.after * 2 / 3:
            self.status = "IN_PROGRESS"


@dataclass
class Fault:
    """What goes wrong with a request; `done` when it goes wrong only after the request has had its effect."""

    say: Say
    done: bool = False


LOST = Fault(Say(hang_up=True), done=True)
Faults = Callable[[str, int, Seen], Fault | None]


def asking(question: object, **more: Any) -> LLMRequest:
    """Return a request that asks something."""
    return LLMRequest("test", ({"role": "user", "content": str(question)},), **more)


def completion(text: str = "좋아요", model: str = "tiny", reason: str = "stop") -> dict[str, Any]:
    """Return what the new generation's worker puts out."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    }


def echo(work: Work) -> End:
    """End at once with what was asked."""
    return End(more={"output": [completion(work.question)], "workerId": "w1", "executionTime": 3})


class Dispatcher:
    """
    RunPod in a thread; use it in a ``with`` block.

    Args:
        script: How each job ends; None when a worker takes them.
        faults: Called with the operation, how often it was asked for, and the request.
        latency: Seconds that every answer takes.

    Attributes:
        jobs: All jobs by id.
        asked: How often each operation was asked for.
        looked_at: The ids of the jobs that were looked at.
        doubled: Questions of which two jobs were alive at once.
    """

    def __init__(
        self,
        script: Callable[[Work], End] | None = echo,
        faults: Faults | None = None,
        latency: float = 0.0,
    ) -> None:
        self.jobs: dict[str, Work] = {}
        self.asked: Counter[str] = Counter()
        self.submissions: Counter[str] = Counter()
        self.doubled: list[str] = []
        self.health: Any = {"jobs": {"inQueue": 0}, "workers": WORKERS}
        self.script = script
        self.faults = faults
        self.latency = latency
        self.looked_at: set[str] = set()
        self.worker_polls = 0
        self.progress_updates = 0
        self.server = LocalServer(self._answer)

    @property
    def base_url(self) -> str:
        return f"{self.server.url}/v2"

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.__exit__(None, None, None)

    def alive(self) -> list[Work]:
        """Return the jobs that cost money."""
        for work in list(self.jobs.values()):
            work.move_on()
        return [work for work in self.jobs.values() if work.status in ALIVE]

    async def _answer(self, seen: Seen) -> Say:
        parts = seen.path.split("?")[0].strip("/").split("/")
        if parts[0] == "v2":
            return await self._client(seen, parts[2], "/".join(parts[3:]))
        return await self._worker(seen, parts)

    async def _client(self, seen: Seen, operation: str, job_id: str) -> Say:
        self.asked[operation] += 1
        if self.latency:
            await asyncio.sleep(self.latency)
        if seen.headers.get("Authorization") != f"Bearer {KEY}":
            return Say({"error": "unauthorized"}, 401)
        fault = self.faults(operation, self.asked[operation], seen) if self.faults else None
        if fault is not None and not fault.done:
            return fault.say
        say = self._do(seen, operation, job_id)
        return say if fault is None else fault.say

    def _do(self, seen: Seen, operation: str, job_id: str) -> Say:
        if operation == "run":
            return self._run(seen.json)
        if operation == "health":
            return Say(self.health)
        work = self.jobs.get(job_id)
        if work is None:
            return Say({"error": "job not found"}, 404)
        work.move_on()
        if operation == "status":
            self.looked_at.add(job_id)
        if operation == "cancel" and work.status in ALIVE:
            work.status = "CANCELLED"
        return Say({"id": work.id, "status": work.status, **work.told})

    def _run(self, body: dict[str, Any]) -> Say:
        if not isinstance(body.get("input"), dict):
            return Say({"error": "input must be an object"}, 400)
        work = Work(f"{len(self.jobs):08x}-u1", body["input"], body.get("policy", {}))
        work.made_at = time.monotonic()
        work.end = self.script(work) if self.script else None
        self.submissions[work.question] += 1
        if any(other.question == work.question for other in self.alive()):
            self.doubled.append(work.question)
        self.jobs[work.id] = work
        return Say({"id": work.id, "status": "IN_QUEUE"})

    async def _worker(self, seen: Seen, parts: list[str]) -> Say:
        """Talk to the SDK's worker loop."""
        if parts[0] in ("job-take", "job-take-batch"):
            self.worker_polls += 1
            return await self._take(batch=parts[0] == "job-take-batch")
        if parts[0] == "job-done":
            self._done(seen, parts[2])
            return Say({})
        if parts[0] == "job-stop":
            return await self._stop()
        return Say({})

    async def _take(self, *, batch: bool) -> Say:
        for _ in range(100):
            queued = [work for work in self.jobs.values() if work.status == "IN_QUEUE"]
            if queued:
                taken = queued if batch else queued[:1]
                for work in taken:
                    work.status = "IN_PROGRESS"
                jobs = [{"id": work.id, "input": work.input} for work in taken]
                return Say(jobs if batch else jobs[0])
            await asyncio.sleep(0.01)
        return Say(status=204)

    def _done(self, seen: Seen, job_id: str) -> None:
        result = json.loads(seen.body)
        work = self.jobs[job_id]
        if work.status not in ALIVE:
            return
        if result.get("status") == "IN_PROGRESS":  # a progress update
            self.progress_updates += 1
            work.told["output"] = result["output"]
            return
        work.told.pop("output", None)
        work.status = "FAILED" if "error" in result else "COMPLETED"
        work.told.update({key: result[key] for key in ("output", "error") if key in result})

    async def _stop(self) -> Say:
        for _ in range(100):
            stopped = [work for work in self.jobs.values() if work.status == "CANCELLED" and not work.stopped]
            if stopped:
                for work in stopped:
                    work.stopped = True
                return Say({"jobsToStop": [work.id for work in stopped]})
            await asyncio.sleep(0.01)
        return Say(status=204)


WORKER = Path(__file__).with_name("runpod_worker.py")


def worker_environment(dispatcher: Dispatcher, handler: str) -> dict[str, str]:
    """Return the environment that RunPod gives to a worker."""
    url = dispatcher.server.url
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
        "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID",
        "RUNPOD_AI_API_KEY": KEY,
        "RUNPOD_POD_ID": "pod1",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_DEBUG_LEVEL": "ERROR",
        "TEST_HANDLER": handler,
    }
