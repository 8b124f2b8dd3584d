"""A whole application around the router, for `restaurant-llm-batch serve`."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from ... import __version__

HEALTH = "/health"


def application(router: APIRouter) -> FastAPI:
    """Return an application with the router's paths, one that tells whether it is up, and an OpenAPI page."""
    app = FastAPI(
        title="restaurant_llm_batch",
        version=__version__,
        description="Summaries, sentiment and strengths of many restaurants at once, from their reviews.",
    )
    app.include_router(router)

    @app.get(HEALTH, tags=["service"])
    async def health() -> dict[str, str]:
        """Tell that the service is up; it asks neither the model nor the search."""
        return {"status": "ok"}

    return app
