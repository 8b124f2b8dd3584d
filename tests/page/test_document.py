"""The document of the page: its scripts are shipped, hashed and joined, and no text in its data is markup."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch._page import document as made
from restaurant_llm_batch._page.document import MODULES, bundle, document, embedded, packed, shipped
from restaurant_llm_batch._page.vendored import VENDORED, Vendored

EVIL = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>&lt;\u2028\u2029",
    "\ud800 half a pair",
    "\x00\x1b[31m\u202e",
    "'\"`${alert(1)}",
]


class Elements(HTMLParser):
    """The elements of a document, with their texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data


@pytest.mark.parametrize("one", VENDORED, ids=lambda one: one.name)
def test_every_shipped_library_is_the_file_that_is_pinned(one: Vendored) -> None:
    content = (files("restaurant_llm_batch._page") / "static" / one.name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == one.sha256


def test_every_module_is_in_the_page_and_imports_from_those_before_it() -> None:
    folder = files("restaurant_llm_batch._page") / "static"
    names = {path.name.removesuffix(".js") for path in folder.iterdir() if path.name.endswith(".js")}
    libraries = {one.name.removesuffix(".js") for one in VENDORED}
    assert names - libraries == set(MODULES)
    for place, name in enumerate(MODULES):
        imported = re.findall(r'from "\./([\w-]+)\.js"', shipped(f"{name}.js"))
        assert set(imported) <= set(MODULES[:place]), name


def test_the_joined_script_has_no_import_no_export_and_no_name_twice() -> None:
    script = bundle()
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script, re.MULTILINE)
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("module", MODULES)
def test_no_script_turns_a_text_into_markup_or_into_code(module: str) -> None:
    script = shipped(f"{module}.js")
    for risky in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
    ):
        assert risky not in script
    assert not re.search(r"https?://", script)


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else() -> None:
    for in_file in (False, True):
        found = document({"kind": "file"}, "x", in_file=in_file)
        assert found.policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in found.policy
        assert f"connect-src {chr(39)}{'none' if in_file else 'self'}{chr(39)}" in found.policy
        scripts = [one for one in Elements(found.html.decode()).found if one[0] == "script"]
        assert [one[1].get("type") for one in scripts] == ["application/json", None, "module"]
        for _, _, text in scripts[1:]:
            assert made._source(text) in found.policy


@pytest.mark.parametrize("text", EVIL)
def test_data_stays_data_whatever_its_texts_are(text: str) -> None:
    html = document({"text": text, text: [text]}, text).html.decode()
    elements = Elements(html).found
    assert [tag for tag, _, _ in elements].count("script") == 3
    (data,) = [text for tag, attributes, text in elements if attributes.get("id") == "data"]
    assert json.loads(data)["text"] == text.encode("utf-8", "replace").decode()


@given(st.text(alphabet="<>&/!-'scriptSCRIPT\\\u2028\u2029\x00한"))
def test_embedded_data_reads_as_it_was_and_ends_no_script(text: str) -> None:
    written = embedded({"text": text})
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == {"text": text}


def test_large_data_is_compressed_to_equal_bytes_each_time() -> None:
    assert packed([1, 2]) == [1, 2]
    large = packed(["restaurant"] * 10_000)
    assert isinstance(large, dict)
    assert large == packed(["restaurant"] * 10_000)
    assert len(large["gzip"]) < 1_000
