"""
A process that writes to a store: ``python store_child.py FILE NAME COUNT IN_FLIGHT``.

It says the number of each answer once it was told that it is durable, and of each job likewise.
"""

from __future__ import annotations

import sys
import threading
from hashlib import sha256

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._store.store import Store


def key_of(name: str, number: int) -> bytes:
    """Return the key of a writer's answer."""
    return sha256(f"{name} {number}".encode()).digest()[:16]


def reply_of(name: str, number: int) -> LLMResponse:
    """Return the answer itself."""
    return LLMResponse(f"{name}의 {number}번째 " * 40, prompt_tokens=number, model="m")


def main(path: str, name: str, count: int, in_flight: int) -> None:
    """Write."""
    room = threading.Semaphore(in_flight)

    def told(what: str, number: int, error: Exception | None) -> None:
        if error is not None:
            sys.stdout.write(f"error {type(error).__name__}: {error}\n")
        sys.stdout.write(f"{what} {number}\n")
        sys.stdout.flush()
        room.release()

    with Store(path) as store:
        for number in range(count):
            key = key_of(name, number)
            room.acquire()
            store.record_job(key, "runpod", f"{name}-{number}", lambda e, n=number: told("job", n, e))  # type: ignore[misc]
            room.acquire()
            store.put(key, reply_of(name, number), lambda e, n=number: told("put", n, e))  # type: ignore[misc]
            assert store.get(key_of(name, -1)) is None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
