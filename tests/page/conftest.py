"""A real browser for the tests of the page: Chromium of the system, driven by playwright; nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """
    A page of a browser, and what went wrong in it.

    Attributes:
        page: The page.
        requests: Addresses of all that it asked for.
        errors: What it complained of, and errors of its scripts.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Any]:
    """A function that opens an address; at the end, no page may have complained, or asked for anything elsewhere."""
    opened: list[tuple[Watched, str]] = []
    contexts = []

    def start(address: str, **options: Any) -> Any:
        context = chromium.new_context(
            **{"viewport": {"width": 1360, "height": 900}, "locale": "ko-KR", **options}
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        opened.append((watched, address))
        watched.page.goto(address)
        watched.page.wait_for_selector("main[class]:not(:has([aria-busy]))")
        return watched.page

    yield start
    for watched, address in opened:
        assert watched.errors == []
        base = address.partition("#")[0]
        assert [one for one in watched.requests if not one.startswith((base, "data:"))] == []
    for context in contexts:
        context.close()
