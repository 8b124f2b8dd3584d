"""LLM backend of your own: a model client behind `acomplete`, with its failures mapped to the library's errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import anyio

from restaurant_llm_batch import (
    BatchRunner,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    SummarizeReviews,
    errors,
)


@dataclass
class ClientReply:
    """What the client of this example returns; yours has a type of its own."""

    status: int
    text: str = ""
    retry_after: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ExampleClient:
    """Stands for the client of some service: refuses the first call and answers the rest."""

    def __init__(self) -> None:
        self.calls = 0

    async def post(self, body: dict[str, Any]) -> ClientReply:
        """Send a request; here, wait 10 ms and answer with a canned text."""
        self.calls += 1
        await anyio.sleep(0.01)
        if self.calls == 1:
            return ClientReply(429, retry_after=0.05)
        fields: list[str] = body["schema"]["required"]
        text = json.dumps({name: f"A canned {name}." for name in fields})
        return ClientReply(200, text, prompt_tokens=120, completion_tokens=20)


class ExampleLLM:
    """
    Adapts the client. No base class is needed: an object with `complete` or `acomplete` is a backend.

    Attributes:
        fingerprint: Names the service and the model in the keys of a store; it must not contain a secret.
    """

    fingerprint = "example-service example-model"

    def __init__(self, client: ExampleClient) -> None:
        self._client = client

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer one request. Leave retries to the runner: raise, and it decides by the type of the error."""
        reply = await self._client.post(
            {"messages": list(request.messages), "schema": request.schema, "max_tokens": request.max_tokens}
        )
        if reply.status == 429:
            raise errors.RateLimited("too many requests", retry_after=reply.retry_after)
        if reply.status == 401:
            raise errors.AuthenticationFailed("the service refused the key")  # stops the run
        if reply.status >= 500:
            raise errors.TransientBackendError(f"HTTP {reply.status}", status=reply.status)
        if reply.status != 200:
            raise errors.PermanentBackendError(f"HTTP {reply.status}", status=reply.status)
        return LLMResponse(
            reply.text,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            model="example-model",
        )

    async def aclose(self) -> None:
        """Close what belongs to the event loop; the runner calls this when its work on the loop ends."""


def main() -> None:
    """Summarise the reviews of one restaurant through the backend."""
    runner = BatchRunner(
        llm=ExampleLLM(ExampleClient()),
        strategy=Strategy.stage(4),
        llm_retry=RetryPolicy(attempts=4, wait_initial=0.05, wait_max=5.0),
    )
    items = [
        {
            "restaurant_id": 7,
            "positive_reviews": ["Great noodles.", "Friendly staff."],
            "negative_reviews": ["Far too expensive."],
        }
    ]
    report = runner.run(SummarizeReviews(language="en"), items)
    report.raise_for_failures()
    for summary in report.results:
        print(f"restaurant {summary.restaurant_id}: {summary}")
    print(f"calls: {report.stats.calls['llm']}, rate limited: {report.stats.rate_limited}")


if __name__ == "__main__":
    main()
