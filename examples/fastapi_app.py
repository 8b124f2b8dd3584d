"""
FastAPI application: the batch routes of the library, and a route of your own, on one shared runner.

Run it with `python examples/fastapi_app.py`, then open http://127.0.0.1:8000/docs.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.search import EmbeddedSearch

REVIEWS = [
    {"restaurant_id": 1, "review_id": "a", "content": "직원분이 친절하고 음식이 맛있어요."},
    {"restaurant_id": 1, "review_id": "b", "content": "가격이 조금 비싸지만 양이 많아요."},
]

search = EmbeddedSearch()
search.index_reviews(REVIEWS)
# One runner for all requests: its limits hold for the whole process.
runner = BatchRunner(llm=OfflineLLM(), search=search, strategy=Strategy.stage(4), limits=Limits(llm=8))

app = FastAPI(title="Restaurant reviews")
app.include_router(batch_router(runner))  # while the application is up, the router keeps the runner open


@app.get("/restaurants/{restaurant_id}/summary")
async def summary(restaurant_id: int) -> dict[str, Any]:
    """Summarise one restaurant."""
    report = await runner.arun(SummarizeAspects(), [restaurant_id])
    return {
        "results": [
            {"restaurant_id": result.restaurant_id, "summary": result.overall_summary}
            for result in report.results
        ],
        "failures": [str(failure) for failure in report.failures],
    }


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000)
