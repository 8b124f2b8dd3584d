"""Keys in settings of any kind: `config` and the translation of a former file show none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from restaurant_llm_batch import BatchSettings
from restaurant_llm_batch._settings.keys import holds_key, without_keys
from restaurant_llm_batch._settings.translation import as_env, as_toml, translate
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.errors import ConfigurationError

HIDDEN_IN = [
    ("QDRANT_URL", "https://user:{}@host:6333"),
    ("QDRANT_URL", "https://user:a@{}@host:6333"),
    ("QDRANT_URL", "https://user:a/{}@host:6333"),
    ("BATCH_LLM_URL", "https://host/v1?a=1&api-key={}"),
    ("BATCH_EMBEDDING_URL", "https://host/v1?access_token={}#x"),
    ("BATCH_LLM_EXTRA_BODY", '{{"api_key": "{}"}}'),
    ("BATCH_LLM_SAMPLING", '{{"headers": [{{"Authorization": "Basic {}"}}]}}'),
    ("BATCH_INSTRUCTIONS", "Use the key ghp_{} for it"),
    ("BATCH_LLM_MODEL", "AIza{}"),
]


@pytest.mark.parametrize(("name", "form"), HIDDEN_IN)
@pytest.mark.sample(2)
def test_no_setting_shows_a_key_that_stands_in_it(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = form.format("HUSHHUSH")
    monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(build(), ["config", "--set", "--json"])
    assert shown.exit_code == 0, shown.output
    assert name in json.loads(shown.stdout)
    assert "HUSHHUSH" not in shown.output
    lines = translate(f"{name}={value}")
    assert "HUSHHUSH" not in as_env(lines, "old.env") + as_toml(lines, "old.env")


def test_a_value_that_cannot_be_used_is_not_quoted_in_a_comment() -> None:
    assert "HUSH" not in as_env(translate('BATCH_PRICES={"model": "HUSH"}'), "old.env")


@pytest.mark.parametrize(
    "value",
    [
        "http://localhost:6333",
        "Qwen/Qwen2.5-7B-Instruct",
        "https://host/v1?version=2@3",
        '{"max_tokens": 5, "stop_token_ids": [1]}',
        "service=0.6,price=0.55",
        "a task-sk-ip of monkey=1",
    ],
)
def test_what_is_no_key_is_shown(value: str) -> None:
    assert not holds_key(value)
    assert without_keys({"limit": 5, "text": value}) == {"limit": 5, "text": value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH_LLM_CONCURRENCY", "sk-HUSHHUSH"),
        ("BATCH_LLM_EXTRA_BODY", '{"api_key": "HUSHHUSH'),
        ("BATCH_PRICES", '{"model": "hf_HUSHHUSH"}'),
        ("BATCH_LLM_BACKEND", "https://user:HUSHHUSH@host"),
    ],
)
def test_an_error_about_a_setting_shows_no_key_that_stands_in_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as refused:
        BatchSettings()
    assert "HUSHHUSH" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-16", "cp949", "utf-32"])
def test_a_file_of_settings_in_another_encoding_is_one_sentence(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_bytes("# 모델\nBATCH_LLM_MODEL=a\n".encode(encoding))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read: it is not UTF-8"):
        BatchSettings()


def test_a_file_of_settings_may_begin_with_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("BATCH_LLM_MODEL=a\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert BatchSettings().batch_llm_model == "a"
