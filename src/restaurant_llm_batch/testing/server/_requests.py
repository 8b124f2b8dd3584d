"""Chat requests as the fault server parses them: messages, schema, token counts, and a digest that identifies them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json, to_json

_NUMBERED_LINE = re.compile(r"^\[(\d{1,9})\] ", re.MULTILINE)
_TEMPLATE_TOKENS = 4
"""Tokens of the chat template per message."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    A request for a chat completion, over any of the APIs.

    Attributes:
        body: Body of OpenAI's chat API; for a RunPod job, the body that its worker passes on to vLLM.
        digest: Hash of the messages; equal for equal messages, whatever the other settings.
        attempt: How often the messages were admitted, this time included; refusals by a limit do not count.
    """

    body: Mapping[str, Any]
    digest: str
    attempt: int = 1

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The chat messages."""
        messages: Sequence[Mapping[str, Any]] = self.body["messages"]
        return messages

    @property
    def text(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].get("content") or "")

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt, chat template included."""
        return sum(
            count_tokens(str(message.get("content") or "")) + _TEMPLATE_TOKENS for message in self.messages
        )

    @property
    def numbers(self) -> list[int]:
        """Numbers of the numbered lines in the last message, in the format of this library: ``[7] ...``."""
        return [int(number) for number in _NUMBERED_LINE.findall(self.text)]

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """JSON Schema of the reply, or None for free text."""
        response_format = self.body.get("response_format")
        json_schema = response_format.get("json_schema") if isinstance(response_format, dict) else None
        schema = json_schema.get("schema") if isinstance(json_schema, dict) else None
        return schema if isinstance(schema, dict) else None

    @property
    def max_tokens(self) -> int | None:
        """Maximum length of the reply, in tokens, or None."""
        value = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return value if type(value) is int and value > 0 else None

    @property
    def priority(self) -> int:
        """Priority of the request; lower runs first."""
        value = self.body.get("priority")
        return value if type(value) is int else 0


def count_tokens(text: str) -> int:
    """
    Estimate the tokens of a text: one for every three bytes of UTF-8, which is one per Hangul syllable.

    A tokenizer would be more accurate, but would take longer than the rest of a response.
    """
    return -(-len(text.encode("utf-8", "replace")) // 3)


def read_json(raw: bytes) -> Any:
    """Return the decoded JSON of a body, or None if it is not valid JSON."""
    try:
        return from_json(raw)
    except ValueError:
        return None


def read_chat(body: Any) -> ChatRequest | None:
    """Parse a body of OpenAI's chat API; return None if it has no list of messages."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages:
        return None
    if not all(isinstance(message, dict) for message in messages):
        return None
    return ChatRequest(body, blake2b(to_json(messages), digest_size=8).hexdigest())


def read_job(body: Any) -> ChatRequest | None:
    """Parse the input of a RunPod job, in any of the forms that worker-vllm accepts; return None if it has none."""
    job_input = body.get("input") if isinstance(body, dict) else None
    if not isinstance(job_input, dict):
        return None
    if isinstance(job_input.get("openai_input"), dict):
        return read_chat(job_input["openai_input"])
    sampling = job_input.get("sampling_params")
    messages = job_input.get("messages") or [{"role": "user", "content": job_input.get("prompt", "")}]
    return read_chat({**(sampling if isinstance(sampling, dict) else {}), "messages": messages})
