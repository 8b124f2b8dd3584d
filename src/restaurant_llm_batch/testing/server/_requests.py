"""A question as the server reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json, to_json

_NUMBERED = re.compile(r"^\[(\d{1,9})\] ", re.MULTILINE)
_AROUND = 4


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    A chat completion that was asked for, over whichever API.

    Attributes:
        body: The body of OpenAI's chat API; of a RunPod job, what its worker passes on to vLLM.
        digest: Short for the messages: equal for equal questions, whatever the settings around them.
        attempt: How often the question was let in, this time included; what a limit refused does not count.
    """

    body: Mapping[str, Any]
    digest: str
    attempt: int = 1

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The chat."""
        messages: Sequence[Mapping[str, Any]] = self.body["messages"]
        return messages

    @property
    def text(self) -> str:
        """What the last message says."""
        return str(self.messages[-1].get("content") or "")

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the chat, and of the template around it."""
        return sum(count_tokens(str(one.get("content") or "")) + _AROUND for one in self.messages)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the lines that the last message numbers, as this library numbers reviews."""
        return [int(number) for number in _NUMBERED.findall(self.text)]

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema that the answer must follow, or None for free text."""
        form = self.body.get("response_format")
        wanted = form.get("json_schema") if isinstance(form, dict) else None
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        return schema if isinstance(schema, dict) else None

    @property
    def max_tokens(self) -> int | None:
        """The longest answer that was asked for, in tokens, or None."""
        given = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return given if type(given) is int and given > 0 else None

    @property
    def priority(self) -> int:
        """Lower goes first."""
        given = self.body.get("priority")
        return given if type(given) is int else 0


def count_tokens(text: str) -> int:
    """
    Return the tokens of a text: one for every three bytes, which is one for a Hangul syllable.

    A tokenizer's count would be truer, but takes longer than all the rest of an answer.
    """
    return -(-len(text.encode("utf-8", "replace")) // 3)


def read_json(raw: bytes) -> Any:
    """Return the JSON of a body, or None where it is none."""
    try:
        return from_json(raw)
    except ValueError:
        return None


def read_chat(body: Any) -> ChatRequest | None:
    """Return the question in a body of OpenAI's chat API, or None where there is none."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        return None
    return ChatRequest(body, blake2b(to_json(messages), digest_size=8).hexdigest())


def read_job(body: Any) -> ChatRequest | None:
    """Return the question in the input of a RunPod job, in any of the shapes that worker-vllm takes."""
    given = body.get("input") if isinstance(body, dict) else None
    if not isinstance(given, dict):
        return None
    if isinstance(given.get("openai_input"), dict):
        return read_chat(given["openai_input"])
    sampling = given.get("sampling_params")
    messages = given.get("messages") or [{"role": "user", "content": given.get("prompt", "")}]
    return read_chat({**(sampling if isinstance(sampling, dict) else {}), "messages": messages})
