"""
Document of the page: one HTML text with its scripts, styles and data, which a browser runs without a network.

Theory of operation. `view` serves this document, and `to_html` writes it with the data in it, so both show the same. A
browser runs only the scripts whose hashes the Content-Security-Policy names, and loads nothing from elsewhere. The
scripts are ES modules in files of their own; `bundle` joins them to one, without their imports and exports, since a
module cannot import another one within a document.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from .._text import json_line

MODULES = (
    *(
        "dom",
        "format",
        "source",
        "table",
        "charts",
        "waits",
        "timeline",
        "overview",
        "lists",
        "item",
        "views",
        "app",
    ),
)
"""The modules of the page; each imports from those before it only."""
_PLAIN = 20_000
"""Bytes of JSON up to which data is not compressed."""
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w-]+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const))|^export \{[^}]*\};\n", re.MULTILINE)
# "<" ends a script or begins a comment, the line separators end a line for old parsers of scripts.
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class Document:
    """
    A document.

    Attributes:
        html: Its text, in UTF-8.
        policy: Its Content-Security-Policy.
    """

    html: bytes
    policy: str


@cache
def shipped(name: str) -> str:
    """Return the text of a shipped file."""
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")


@cache
def bundle() -> str:
    """Return the scripts of the page as one module."""
    modules = (shipped(f"{name}.js") for name in MODULES)
    return "".join(_EXPORT.sub("", _IMPORT.sub("", module)) for module in modules)


def document(data: Mapping[str, Any], title: str, *, in_file: bool = False) -> Document:
    """
    Return the document.

    Args:
        data: What the page is given, as JSON can hold it.
        title: Its title.
        in_file: Whether it is a file, which states its policy itself; a server does so in a header.
    """
    style = shipped("uPlot.min.css") + shipped("page.css")
    library, script = shipped("uPlot.iife.min.js"), bundle()
    policy = (
        f"default-src 'none'; script-src {_source(library)} {_source(script)}; style-src {_source(style)}; "
        f"img-src data:; connect-src {_NOTHING if in_file else _SELF}; base-uri 'none'; form-action 'none'"
    )
    stated = f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">' if in_file else ""
    html = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{stated}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n'
        '<div id="page"><noscript>This page needs JavaScript, which comes with it; it loads nothing.</noscript></div>\n'
        f'<script type="application/json" id="data">{embedded(data)}</script>\n'
        f'<script>{library}</script>\n<script type="module">{script}</script>\n</body>\n</html>\n'
    )
    return Document(html.encode("utf-8", "replace"), policy)


_NOTHING, _SELF = "'none'", "'self'"


def _source(text: str) -> str:
    """Return the source of an inline text for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(data: object) -> str:
    """Return data as JSON that may stand in a script element, whatever its texts are."""
    text = json_line(data).decode().rstrip("\n")
    return re.sub("[<>&\u2028\u2029]", lambda sign: _ESCAPED[sign[0]], text)


def packed(data: object) -> object:
    """Return data as it stands in a document: compressed if it is large."""
    line = json_line(data)
    if len(line) <= _PLAIN:
        return json.loads(line)
    return {"gzip": base64.b64encode(gzip.compress(line, 9, mtime=0)).decode()}
