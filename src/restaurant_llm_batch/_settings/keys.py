"""Keys in values: a key may stand in any setting, in a URL or an object, and is not shown there either."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .._patterns import lazy_pattern

HIDDEN = "***"

# Greedy: a password that is not quoted as URLs demand may hold an "@" or a "/".
_USERINFO = lazy_pattern(r"//[^\s'\"?#]+@")
_KEY_FIELD = r"[\w.-]*(?:api[_-]?key|token|secret|password|passwd|credentials?|signature|authorization)"
_PARAMETER = lazy_pattern(rf"((?:^|[?&;,\s]){_KEY_FIELD}=)[^&;#,\s]+", re.IGNORECASE)
_FIELD = lazy_pattern(rf"([\"']{_KEY_FIELD}[\"']\s*:\s*)(?:\"[^\"]*\"?|'[^']*'?)", re.IGNORECASE)
_KNOWN = lazy_pattern(
    r"(?<![\w-])(?:sk-|rpa_|hf_|gh[a-z]_|github_pat_|gsk_|xai-|nvapi-|glpat-|AIza|AKIA|xox[a-z]-)[\w-]+"
    r"|(?<![\w-])eyJ[\w-]+\.[\w.-]+"
)
_BEARER = lazy_pattern(r"\b((?:bearer|basic)\s+)[\w.~+/=-]{4,}", re.IGNORECASE)
_IS_KEY_FIELD = lazy_pattern(rf"{_KEY_FIELD}\Z", re.IGNORECASE)


def holds_key(text: str) -> bool:
    """Return whether a text looks as if it held a key."""
    shown: str = without_keys(text)
    return shown != text


def without_keys(value: Any) -> Any:
    """Return a value of JSON with ``***`` in place of what looks like a key."""
    if isinstance(value, str):
        text = _USERINFO.sub(f"//{HIDDEN}@", value)
        for pattern in (_PARAMETER, _FIELD, _BEARER):
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return _KNOWN.sub(HIDDEN, text)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(one, str) and _IS_KEY_FIELD.match(str(name)) else without_keys(one)
            for name, one in value.items()
        }
    return [without_keys(one) for one in value] if isinstance(value, (list, tuple)) else value
