"""OpenAPI documentation of the endpoints: examples, header parameters and error responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .request import NDJSON
from .responses import ErrorResponse

PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Id of the request, 1 to 128 letters, digits and `._:/+=@-`; it is returned with the "
        "response and appears in the log. By default the service creates one.",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Debug",
        "in": "header",
        "description": "`true`, `1` or `yes` to add debug information to the results.",
        "schema": {"type": "string"},
    },
    {
        "name": "debug",
        "in": "query",
        "description": "Like the header `X-Debug`.",
        "schema": {"type": "string"},
    },
]

_ERRORS = {
    408: "The body did not arrive in time.",
    413: "The body has more bytes, restaurants or reviews than this service accepts; `details` names the field.",
    415: "The content type of the body is not JSON.",
    422: "The request is invalid; `details` names the fields.",
    500: "Internal error; the log has the details under the request id.",
    501: "It needs a search, which this service has not.",
    502: "A service behind this one answered, but not as it should.",
    503: "A service behind this one is not usable, or this one is busy or shutting down; nothing was done.",
    504: "It took longer than this service allows.",
}
_ERRORS_OF_ONE = {502, 504}
"""In a response about many restaurants, these are failures of a restaurant."""

SUMMARY_REQUESTS: dict[str, Any] = {
    "search": {
        "summary": "Restaurants whose reviews are found by search",
        "value": {"restaurants": [{"restaurant_id": 1}, {"restaurant_id": 2}], "limit": 10, "min_score": 0.0},
    },
    "reviews": {
        "summary": "Restaurants with their reviews",
        "value": {
            "restaurants": [
                {
                    "restaurant_id": 1,
                    "positive_reviews": [
                        {"content": "음식이 맛있고 서비스가 좋아요!", "is_recommended": True}
                    ],
                    "negative_reviews": [{"content": "주말에는 대기가 길어요.", "is_recommended": False}],
                }
            ],
            "max_tokens_per_batch": 4000,
        },
    },
}

SENTIMENT_REQUESTS: dict[str, Any] = {
    "reviews": {
        "summary": "Restaurants with their reviews",
        "value": {
            "restaurants": [
                {
                    "restaurant_id": 1,
                    "reviews": [
                        {"id": 1, "restaurant_id": 1, "content": "맛있어요! 서비스도 친절해요."},
                        {"id": 2, "restaurant_id": 1, "content": "맛있어요"},
                    ],
                }
            ]
        },
    },
    "texts": {
        "summary": "Reviews as texts, and the label of each in the response",
        "value": {
            "restaurants": [{"restaurant_id": 1, "reviews": ["맛있어요! 서비스도 친절해요.", "별로예요"]}],
            "labels": True,
        },
    },
    "search": {
        "summary": "Restaurants whose reviews are found by search",
        "value": {"restaurants": [{"restaurant_id": 1, "restaurant_name": "너울솥국밥"}]},
    },
}

STRENGTH_REQUESTS: dict[str, Any] = {
    "reviews": {
        "summary": "Reviews of the restaurant, and reviews to compare it with",
        "value": {
            "restaurants": [
                {
                    "target_restaurant_id": 1,
                    "target_reviews": [{"content": "음식이 맛있고 서비스가 좋아요!", "is_recommended": True}],
                    "comparison_reviews": [
                        {"content": "음식 맛은 무난하고 실패는 없는 편이다.", "is_recommended": True}
                    ],
                }
            ],
            "max_tokens_per_batch": 4000,
        },
    },
    "search": {
        "summary": "Restaurants whose reviews, and those of others, are found by search",
        "value": {"restaurants": [{"target_restaurant_id": 1}]},
    },
}

COMPARISON_REQUESTS: dict[str, Any] = {
    "search": {
        "summary": "Restaurants whose reviews, and those of others, are found by search",
        "value": {"restaurants": [{"restaurant_id": 1}]},
    },
}

SIMILAR_REQUESTS: dict[str, Any] = {
    "all": {"summary": "Reviews of any restaurant", "value": {"query_text": "조용한 분위기", "limit": 3}},
    "restaurant": {
        "summary": "Reviews of one restaurant",
        "value": {"query_text": "조용한 분위기", "restaurant_id": 1, "min_score": 0.2},
    },
}

UPLOAD_REQUESTS: dict[str, Any] = {
    "reviews": {
        "summary": "A list of reviews",
        "value": {"reviews": [{"id": 1, "restaurant_id": 1, "content": "맛있어요! 서비스도 친절해요."}]},
    },
    "restaurants": {
        "summary": "Restaurants with their reviews",
        "value": {
            "restaurants": [{"id": 1, "name": "너울솥국밥", "reviews": [{"id": 2, "content": "맛있어요"}]}]
        },
    },
}

_FAILURE = {
    "restaurant_id": 2,
    "stage": "llm",
    "error": "TransientBackendError: a service behind this one did not answer (status 503)",
    "attempts": 3,
}

SUMMARY_ANSWER: dict[str, Any] = {
    "results": [
        {
            "restaurant_id": 1,
            "overall_summary": "이 음식점은 서비스·가격·음식 전반에서 만족도가 높으며, "
            "분위기와 맛을 꼽는 리뷰가 많습니다.",
            "categories": {
                "service": {
                    "summary": "직원과 사장님이 친절하고 응대가 빠르다.",
                    "bullets": ["친절한 서비스", "빠른 응대"],
                    "evidence": [{"review_id": "r1", "snippet": "직원분이 친절해요", "rank": 0}],
                    "status": "ok",
                },
                "price": {"summary": "", "bullets": [], "evidence": [], "status": "no_reviews"},
                "food": {
                    "summary": "음식이 맛있다는 평이 많다.",
                    "bullets": ["맛있는 음식"],
                    "evidence": [{"review_id": "r2", "snippet": "음식이 정말 맛있어요", "rank": 0}],
                    "status": "ok",
                },
            },
        }
    ],
    "failures": [_FAILURE],
}

SENTIMENT_ANSWER: dict[str, Any] = {
    "results": [
        {
            "restaurant_id": 1,
            "positive_count": 2,
            "negative_count": 0,
            "neutral_count": 0,
            "failed_count": 0,
            "total_count": 2,
            "positive_ratio": 100,
            "negative_ratio": 0,
            "neutral_ratio": 0,
        }
    ],
    "failures": [],
}

STRENGTH_ANSWER: dict[str, Any] = {
    "results": [
        {
            "restaurant_id": 1,
            "comparison_summary": "비교 대상은 맛이 무난하다는 평이다.",
            "target_restaurant_strength": "맛과 서비스가 모두 좋다는 점이 돋보인다.",
            "target_reviews": [{"content": "음식이 맛있고 서비스가 좋아요!", "is_recommended": True}],
            "comparison_reviews": [
                {"content": "음식 맛은 무난하고 실패는 없는 편이다.", "is_recommended": True}
            ],
            "target_count": 1,
            "comparison_count": 1,
            "failed_count": 0,
        }
    ],
    "failures": [],
}

COMPARISON_ANSWER: dict[str, Any] = {
    "results": [
        {
            "restaurant_id": 1,
            "comparisons": [{"category": "service", "lift_percentage": 25.0}],
            "total_candidates": 24,
            "validated_count": 1,
            "category_lift": {"service": 25.0},
            "comparison_display": ["서비스에 만족한다는 평이 평균보다 25% 많습니다."],
        }
    ],
    "failures": [],
}

SIMILAR_ANSWER: dict[str, Any] = {
    "results": [
        {"review": {"id": 7, "restaurant_id": 1, "content": "조용해서 이야기하기 좋아요."}, "score": 1.0}
    ],
    "total": 1,
}

UPLOAD_ANSWER: dict[str, Any] = {
    "message": "indexed 1 review",
    "points_count": 1,
    "collection_name": "reviews",
}

JOB_REQUESTS: dict[str, Any] = {
    "sentiment": {
        "summary": "Count the labels of restaurants' reviews",
        "value": {"task": "sentiment", "body": SENTIMENT_REQUESTS["reviews"]["value"]},
    },
    "summarize": {
        "summary": "Summarise restaurants whose reviews are found by search",
        "value": {"task": "summarize", "body": SUMMARY_REQUESTS["search"]["value"]},
    },
}


def single_request(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the example of a request about many restaurants, as a request about its first one."""
    common = dict(example["value"])
    first, *_ = common.pop("restaurants")
    return {
        "summary": example["summary"].replace("Restaurants", "A restaurant"),
        "value": {**first, **common},
    }


def responses(answer: Mapping[str, Any], *, is_batch: bool) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an endpoint, with an example of its JSON response."""
    lines = "A line for each restaurant as it finishes, then the counts:\n\n" + '`{"result": {...}}`, '
    lines += '`{"failure": {...}}`, and last `{"done": {"results": 1, "failures": 1}}`'
    by_status: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": description}
        for status, description in _ERRORS.items()
        if not is_batch or status not in _ERRORS_OF_ONE
    }
    content: dict[str, Any] = {"application/json": {"example": answer}}
    if is_batch:
        content[NDJSON] = {"schema": {"type": "string", "description": lines}}
    by_status[200] = {
        "description": "A result or a failure for every restaurant; one failing restaurant never fails the request."
        if is_batch
        else "The result.",
        "content": content,
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
    }
    return by_status
