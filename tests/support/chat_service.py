"""A chat service for tests: answers by the question and its schema, with faults by question and attempt."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

from restaurant_llm_batch.testing import answer_from_schema
from tests.support.local_server import Say, Seen, chat

TOO_LONG = "This model's maximum context length is 10 tokens. However, your prompt contains at least 11."


class ChatService:
    """
    Speaks OpenAI's chat API, as vLLM does; a `LocalServer` handler.

    The fault a question meets is decided by the number of the house in it ("7번 집"), modulo 20.

    Attributes:
        tries: How often each question was asked, by its digest.
        paid: Questions that were answered.
    """

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()

    def __call__(self, seen: Seen) -> Say:
        if seen.path.endswith("/models"):
            return Say({"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        asked = seen.json
        question = json.dumps(asked["messages"], ensure_ascii=False)
        digest = hashlib.sha256(question.encode()).hexdigest()
        self.tries[digest] += 1
        number = re.search(r"(\d+)번 집", question)
        kind = int(number[1]) % 20 if number else 19
        return self._fault(kind, self.tries[digest]) or self._answer(asked, digest, kind)

    def _fault(self, kind: int, attempt: int) -> Say | None:
        match kind:
            case 0 if attempt == 1:
                return Say({"error": {"message": "busy", "type": "x", "code": 503}}, 503)
            case 1 if attempt < 3:
                return Say({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429)
            case 2 if attempt == 1:
                return Say(hang_up=True)
            case 3:
                return Say({"error": {"message": TOO_LONG, "type": "BadRequestError", "code": 400}}, 400)
            case 4:
                return Say({"error": {"message": "always down", "code": 500}}, 500)
            case 5 if attempt == 1:
                return Say(chat("half"), cut=True)
        return None

    def _answer(self, asked: dict[str, Any], digest: str, kind: int) -> Say:
        # Asked with more room it is another question.
        self.paid[f"{digest} {asked.get('max_tokens') or asked.get('max_completion_tokens')}"] += 1
        answer = answer_from_schema(asked["response_format"]["json_schema"]["schema"])
        answer["overall_summary"] = f"맛있는 집 {digest[:12]}"  # whoever mixes up answers is found out
        completion = chat(json.dumps(answer, ensure_ascii=False))
        if kind == 6:
            completion["choices"][0] |= {"finish_reason": "length"}
        return Say(completion)
