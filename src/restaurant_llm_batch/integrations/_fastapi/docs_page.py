"""Page that describes the API, in one piece: no script, style or font of another server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem }
code, pre, textarea { font: 14px/1.4 ui-monospace, monospace }
textarea { width: 100%; height: 11rem; box-sizing: border-box }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .5rem; min-height: 1rem }
section { border-top: 1px solid #8884; margin-top: 2rem }
dt { font-family: ui-monospace, monospace } dd { margin: 0 0 .3rem 1.5rem }
"""
_SCRIPT = """
const token = document.getElementById("token");
for (const form of document.querySelectorAll("form[data-path]")) {
  const [body, out] = [form.querySelector("textarea"), form.querySelector("pre")];
  form.addEventListener("change", (event) => {
    if (event.target.name === "example") body.value = JSON.parse(event.target.value);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    out.textContent = "...";
    const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    if (token && token.value) headers["Authorization"] = "Bearer " + token.value;
    try {
      const answer = await fetch(form.dataset.path, {
        method: form.dataset.method, headers, body: body ? body.value : undefined,
      });
      let text = await answer.text();
      try { text = JSON.stringify(JSON.parse(text), null, 2); } catch {}
      out.textContent = answer.status + " " + answer.statusText + "\\n" + text;
    } catch (error) { out.textContent = String(error); }
  });
}
"""


def _source(text: str) -> str:
    """Return the source of an inline text for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of the page: a browser loads nothing for it, and runs no script but its own."""


def docs_page(document: Mapping[str, Any], openapi_path: str, *, needs_token: bool) -> str:
    """
    Return the page for an OpenAPI document.

    Args:
        document: The document.
        openapi_path: Path of the document itself.
        needs_token: Whether requests need a token, for which there is a field then.
    """
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    operations = "\n".join(_operations(document))
    token = '<p><label>Token: <input id="token" type="password" autocomplete="off"></label></p>' * needs_token
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<p>{escape(document['info'].get('description', ''))}</p>\n"
        f'<p>The whole description, with all fields: <a href="{escape(openapi_path)}">{escape(openapi_path)}</a></p>\n'
        f"{token}{operations}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = "".join(
                f"<dt>{escape(str(status))}</dt><dd>{escape(response.get('description', ''))}</dd>"
                for status, response in operation.get("responses", {}).items()
            )
            yield (
                f"<section>\n<h2><code>{escape(method.upper())} {escape(path)}</code></h2>\n"
                f"<p><strong>{escape(operation.get('summary', ''))}</strong></p>\n"
                f"<p>{escape(operation.get('description', ''))}</p>\n"
                f'<form data-path="{escape(path)}" data-method="{escape(method.upper())}">\n'
                f"{_body(operation)}<p><button>Send</button></p>\n<pre></pre>\n</form>\n<dl>{responses}</dl>\n</section>"
            )


def _body(operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return ""
    examples = {
        example.get("summary", name): json.dumps(example["value"], ensure_ascii=False, indent=2)
        for name, example in content.get("examples", {}).items()
    }
    options = "".join(
        f'<option value="{escape(json.dumps(text))}">{escape(summary)}</option>'
        for summary, text in examples.items()
    )
    chosen = f'<p><label>Example: <select name="example">{options}</select></label></p>\n' if options else ""
    return f"{chosen}<textarea>{escape(next(iter(examples.values()), ''))}</textarea>\n"
