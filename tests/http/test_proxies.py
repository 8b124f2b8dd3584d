"""Proxy variables: one reading for every client, and what cannot be used is named before any call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from tests.support.calling import ask
from tests.support.local_server import LocalServer, Say, Seen, chat

from restaurant_llm_batch import SearchQuery
from restaurant_llm_batch._http.proxies import ProxySettings
from restaurant_llm_batch.backends import OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.errors import BackendError, ConfigurationError
from restaurant_llm_batch.search import QdrantSearch
from restaurant_llm_batch.search.embedders import APIEmbedder

PROXY = "http://proxy.example:3128"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("proxy", "no_proxy", "url"),
    [
        (None, "127.0.0.0/8", "http://127.0.0.1:8000/v1"),
        (None, "localhost,127.0.0.0/8,::1/128", "http://[::1]:80/"),
        (None, "[::1]", "http://[::1]:8000/"),
        (None, "::1", "http://[::1]/"),
        (None, "[::1]:8000", "http://[::1]:8000/"),
        (PROXY, "[::1]:8000", "http://[::1]:8001/"),
        (None, "[fd00::]/8", "http://[fd12::1]/"),
        (None, "fd00::/8", "http://[fd12::1]/"),
        (None, "*", "http://x.y/"),
        (None, "a, *", "http://x.y/"),
        (None, "example.com", "http://api.example.com/"),
        (None, ".example.com", "http://example.com/"),
        (None, "*.example.com", "http://a.example.com/"),
        (PROXY, "example.com", "http://badexample.com/"),
        (None, "EXAMPLE.com", "http://API.Example.COM/"),
        (None, "example.com:8080", "http://example.com:8080/"),
        (PROXY, "example.com:8080", "http://example.com/"),
        (None, "example.com:80", "http://example.com/"),
        (None, "example.com:443", "https://example.com/"),
        (None, "10.0.0.0/8 192.168.0.0/16", "http://192.168.3.4/"),
        (PROXY, "10.0.0.0/8", "http://11.0.0.1/"),
        (None, "10.1.2.3/8", "http://10.9.9.9/"),
        (None, "10.*", "http://10.4.4.4/"),
        (None, "192.168.1.1", "http://192.168.1.1:99/"),
        (PROXY, "0.1", "http://10.0.0.1/"),
        (None, "::ffff:10.0.0.1", "http://10.0.0.1/"),
        (None, "10.0.0.1", "http://[::ffff:10.0.0.1]/"),
        (None, "localhost", "http://localhost:1/"),
        (PROXY, "127.0.0.1", "http://localhost:1/"),
        (None, "http://example.com", "http://example.com/"),
        (PROXY, "https://example.com", "http://example.com/"),
        (None, "example.com.", "http://example.com/"),
        (None, "example.com", "http://example.com./"),
        (PROXY, ",, ,", "http://x/"),
        (None, "<local>", "http://intranet/"),
        (PROXY, "<local>", "http://a.b/"),
        (None, "127.0.0.1:8000", "http://127.0.0.1:8000/"),
        (PROXY, "127.0.0.1:8000", "http://127.0.0.1:8001/"),
        (None, "127.0.0.0/8:8000", "http://127.0.0.1:8000/"),
        (PROXY, "[::1", "http://x/"),
        (PROXY, "1.2.3.4/99", "http://1.2.3.4/"),
        (None, "fe80::1%eth0", "http://[fe80::1]/"),
        (None, "*example.com", "http://my-example.com/"),
    ],
)
def test_exceptions_are_read_as_people_write_them(proxy: str | None, no_proxy: str, url: str) -> None:
    settings = ProxySettings({"http": PROXY, "https": PROXY, "no": no_proxy})
    assert settings.proxy_for(url) == proxy


@pytest.mark.parametrize(
    ("proxies", "used"),
    [
        ({"http": "proxy.example:3128"}, PROXY),
        ({"http": "HTTP://proxy.example:3128"}, PROXY),
        ({"http": f" {PROXY} "}, PROXY),
        ({"https": PROXY}, None),
        ({"all": PROXY}, PROXY),
        ({"http": "", "all": PROXY}, PROXY),
        ({"http": PROXY, "all": "socks5://elsewhere:1"}, PROXY),
        ({"http": "https://proxy.example"}, "https://proxy.example"),
        ({}, None),
    ],
)
def test_the_urls_scheme_goes_before_all(proxies: dict[str, str], used: str | None) -> None:
    assert ProxySettings(proxies).proxy_for("http://api.example/v1") == used


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://me:hush@h:1",
        "socks5h://h:1",
        "socks4://h",
        "ftp://h",
        "http://",
        "http://me:hush@h:x",
        "http://[::1:9",
    ],
)
def test_what_cannot_be_used_is_refused_without_its_password(proxy: str) -> None:
    settings = ProxySettings({"all": proxy, "no": "near.example"})
    assert settings.proxy_for("http://near.example/") is None
    with pytest.raises(ConfigurationError, match="ALL_PROXY") as caught:
        settings.proxy_for("http://far.example/")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[bad", "http://h:port/", "", "no url"])
def test_an_invalid_url_is_left_to_the_client(url: str) -> None:
    assert ProxySettings({"http": PROXY, "all": PROXY, "no": "x"}).proxy_for(url) in (None, PROXY)


def _complete(make: Callable[[str], object], mode: str) -> Callable[[str], object]:
    return lambda url: ask(make(url), mode)


def _embed(url: str) -> object:
    embedder = APIEmbedder(f"{url}/v1", "m", size=2, api_key="none")
    try:
        return embedder.embed_query("x")
    finally:
        embedder.close()


def _search(url: str) -> object:
    search = QdrantSearch("c", url=url)
    try:
        return search.search(SearchQuery(1, "맛있어요"))
    finally:
        search.close()


def _asearch(url: str) -> object:
    async def main() -> object:
        search = QdrantSearch("c", url=url)
        try:
            return await search.asearch(SearchQuery(1, "맛있어요"))
        finally:
            await search.aclose()

    return anyio.run(main)


MAKERS: dict[str, Callable[[str], object]] = {
    "openai": lambda url: OpenAILLM("m", base_url=f"{url}/v1", api_key="none"),
    "vllm": lambda url: VLLMServerLLM(url, "m"),
    "runpod": lambda url: RunPodLLM("ep", base_url=f"{url}/v2", api_key="rpa_none"),
}
CLIENTS: dict[str, Callable[[str], object]] = {
    **{
        f"{name}-{mode}": _complete(make, mode)
        for name, make in MAKERS.items()
        for mode in ("blocking", "asyncio", "trio")
    },
    "embeddings": _embed,
    "qdrant": _search,
    "qdrant-async": _asearch,
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_socks_proxy_is_refused_by_every_client_before_any_call(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with (
        LocalServer(lambda seen: Say(chat("x"))) as server,
        pytest.raises(ConfigurationError, match="ALL_PROXY"),
    ):
        CLIENTS[client](server.url)
    assert not server.seen


@pytest.mark.parametrize("no_proxy", ["localhost,127.0.0.0/8,::1/128", "[::1],127.0.0.1", "*", "127.*"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.sample(8)
def test_every_client_leaves_out_the_proxy_where_it_is_told_to(
    client: str, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(seen: Seen) -> Say:
        return Say({"error": "reached"}, 404)

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with LocalServer(answer) as server, suppress(BackendError):
        CLIENTS[client](server.url)
    assert server.seen


@pytest.mark.sample(4)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_uses_the_proxy(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalServer(lambda seen: Say({"error": "by proxy"}, 404)) as proxy:
        # Without a scheme, as curl allows.
        monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))
        with suppress(BackendError):
            CLIENTS[client]("http://far.example:8000")
    assert proxy.seen
    assert all(seen.headers["Host"].startswith("far.example") for seen in proxy.seen)


def test_lower_case_goes_before_upper_case() -> None:
    code = (
        "from restaurant_llm_batch._http.proxies import ProxySettings as S; s = S.from_environment(); "
        "print(s.proxy_for('http://a.example/'), s.proxy_for('http://b.example/'))"
    )
    environment = {"http_proxy": "http://low:1", "HTTP_PROXY": "http://high:1", "NO_PROXY": "b.example"}
    rest = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    child = subprocess.run(
        [sys.executable, "-c", code], env={**rest, **environment}, capture_output=True, text=True, check=True
    )
    assert child.stdout.split() == ["http://low:1", "None"]
