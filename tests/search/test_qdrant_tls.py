"""Certificates of a Qdrant server: those of the system's authorities are trusted, as by every other client."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import trustme
from tests.support.local_server import LocalServer, Say

from restaurant_llm_batch import errors
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.search.qdrant.search import QdrantSearch

NOT_THERE = Say(b'{"status": {"error": "Collection `reviews` doesn\'t exist!"}}', status=404)
WAYS = ("blocking", "asyncio", "trio")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[LocalServer, Path]]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with LocalServer(lambda seen: NOT_THERE, context) as server:
        yield server, bundle


def search(url: str, way: str) -> None:
    async def asearch() -> None:
        try:
            await found.asearch(SearchQuery(1, "음식"))
        finally:
            await found.aclose()

    found = QdrantSearch("reviews", url=url)
    if way != "blocking":
        return anyio.run(asearch, backend=way)
    try:
        found.search(SearchQuery(1, "음식"))
    finally:
        found.close()


@pytest.mark.parametrize("way", WAYS)
def test_an_authority_of_the_system_is_trusted(
    server: tuple[LocalServer, Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server[1]))
    with pytest.raises(errors.PermanentBackendError, match="doesn't exist"):
        search(server[0].url, way)


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", WAYS)
def test_any_other_is_not(server: tuple[LocalServer, Path], way: str) -> None:
    with pytest.raises(errors.TransientBackendError, match=r"(?i)certificate"):
        search(server[0].url, way)
    assert not server[0].seen
