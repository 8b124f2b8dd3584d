"""
A worker on the RunPod SDK's own loop, with handlers shaped like worker-vllm's two generations.

Which one answers is said in the question: "new: ...", "old: ...", "raise: ..." and so on.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import runpod

TOO_LONG = "This model's maximum context length is 1024 tokens. However, you requested 2000 tokens."


def _chat(text: str, model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    }


def _new_error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "worker_error", "code": None}}


async def handler(job: dict[str, Any]) -> AsyncIterator[Any]:
    """Answer as the question wants to be answered."""
    given = job["input"]["openai_input"]
    kind, _, text = given["messages"][-1]["content"].partition(": ")
    match kind:
        case "new" | "old":
            yield _chat(text, given.get("model", "served"))
        case "native":
            yield {"choices": [{"tokens": [text]}], "usage": {"input": 22, "output": 16}}
        case "slow":
            await asyncio.sleep(float(text))
            yield _chat(text, "served")
        case "progress":
            runpod.serverless.progress_update(job, {"choices": [{"message": {"content": "half"}}]})
            await asyncio.sleep(0.4)
            yield _chat(text, "served")
        case "raise":
            raise ValueError(text)
        case "new 400":
            body = {"error": {"message": TOO_LONG, "type": "BadRequestError", "code": 400}}
            yield _new_error(f"vLLM returned HTTP 400: {json.dumps(body)}")
        case "new 503":
            body = {"error": {"message": "The engine's queue is full", "type": "Service Unavailable"}}
            yield _new_error(f"vLLM returned HTTP 503: {json.dumps(body)}")
        case "new gone":
            yield _new_error("vLLM server process is not running; worker is unhealthy")
        case "old 400":
            error = {"message": TOO_LONG, "type": "BadRequestError", "param": None, "code": 400}
            yield {"error": error}
        case "older 400":
            yield {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 400}
        case "old text":
            yield {"error": text}


def plain(job: dict[str, Any]) -> Any:
    """Answer as a handler of one's own, which is no generator."""
    if "prompt" in job["input"]:
        return takes_prompt(job)
    kind, _, text = job["input"]["openai_input"]["messages"][-1]["content"].partition(": ")
    if kind == "raise":
        raise ValueError(text)
    return text if kind == "text" else {"choices": [{"text": text}], "usage": {}}


def takes_prompt(job: dict[str, Any]) -> Any:
    """Answer a prompt as the workers do that people write themselves: each labels, and packs the labels otherwise."""
    given = job["input"]
    if set(given) != {"prompt", "temperature", "max_tokens"}:
        raise TypeError(f"unexpected fields: {sorted(given)}")
    prompt = given["prompt"]
    if "openai" in prompt or "JSON Schema" not in prompt:
        raise ValueError("the prompt does not say the form of the answer")
    numbers = re.findall(r"^\[(\d+)\] ", prompt, re.MULTILINE)
    labels = [{"id": int(number), "label": "positive"} for number in numbers]
    answer = json.dumps({"labels": labels})
    form = re.search(r"packed as (\w+)", prompt)
    assert form is not None
    packed = {
        "text": answer,
        "object": {"text": answer, "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
        "generated": [{"generated_text": prompt + answer}],
        "output": {"output": answer, "prompt_tokens": 7, "completion_tokens": 3},
        "response": {"response": f"Here it is:\n```json\n{answer}\n```"},
        "choices": {"choices": [{"text": answer, "finish_reason": "stop"}]},
        "chat": {"choices": [{"message": {"role": "assistant", "content": answer}}]},
        "success": {"status": "success", "message": "done", "data": {"response": answer}},
        "parsed": {"status": "success", "data": json.loads(answer)},
        "pieces": [answer[:20], answer[20:]],
        "vllm": {"outputs": [{"text": answer, "finish_reason": "stop"}], "prompt": prompt},
        "error": {"status": "error", "error": "ValueError: the model is not here"},
        "busy": {"status": "error", "error": "CUDA out of memory"},
    }
    return packed[form[1]]


if __name__ == "__main__":
    handlers = {"worker-vllm": handler, "plain": plain}
    runpod.serverless.start(
        {
            "handler": handlers[os.environ["TEST_HANDLER"]],
            "concurrency_modifier": lambda now: 50,
            "return_aggregate_stream": True,
        }
    )
