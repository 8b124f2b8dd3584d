"""Sources of settings: the environment, ``.env`` and a TOML file; origins of values, and warnings of misspelt names."""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from ..errors import ConfigurationError
from .former import FORMER, Former, former_of

log = logging.getLogger("restaurant_llm_batch")

Origin: TypeAlias = str
"""Where a value comes from: "default", "environment", the name of a file, or "argument"."""

CONFIG_VARIABLE = "BATCH_CONFIG"
ENV_FILE = ".env"
DEFAULT_FILE = Path("restaurant-llm-batch.toml")

_OURS = "BATCH_"
"""Names that start so are ours: each that is no setting is a mistake."""
_OTHERS = ("VLLM_", "QDRANT_", "RUNPOD_", "OPENAI_", "LLM_", "ASPECT_", "ENABLE_PARALLEL", "MAX_SAFE")
"""Names that others use too: only those that nearly are a setting's are mistakes."""
_ALSO_OURS = frozenset({CONFIG_VARIABLE})
# Variables of OpenAI's SDK, RunPod's worker and vLLM that resemble ours.
_KNOWN_OTHERS = frozenset(
    {"OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "RUNPOD_ENDPOINT_BASE_URL"}
)
_NEAR, _VERY_NEAR = 0.6, 0.88


def config_sources(
    settings_cls: type[BaseSettings],
    env: PydanticBaseSettingsSource | None = None,
    dotenv: PydanticBaseSettingsSource | None = None,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """
    Return the environment, ``.env`` and the TOML file; the first that has a value wins.

    Raises:
        ConfigurationError: If the TOML file is missing or not TOML, or has a name that is no setting.
    """
    return (
        EnvSettingsSource(settings_cls) if env is None else env,
        DotEnvSettingsSource(settings_cls) if dotenv is None else dotenv,
        TomlConfigSettingsSource(settings_cls, toml_file=_toml_file(settings_cls)),
    )


def origin_of(settings_cls: type[BaseSettings]) -> dict[str, Origin]:
    """Return the source of each value that a source has, by the field's name."""
    found: dict[str, Origin] = {}
    names = ("environment", ENV_FILE, str(_toml_file(settings_cls)))
    for source, name in zip(config_sources(settings_cls), names, strict=True):
        for field in source():
            found.setdefault(field, name)
    return found


def is_named(settings_cls: type[BaseSettings], variable: str) -> bool:
    """Return whether the environment or ``.env`` has a variable, perhaps without a value."""
    return variable in os.environ or variable in map(str.upper, _names_of_env_file(settings_cls))


def _names_of_env_file(settings_cls: type[BaseSettings]) -> Iterable[str]:
    return DotEnvSettingsSource(settings_cls, env_ignore_empty=False).env_vars


def warn_of_misspelt_names(settings_cls: type[BaseSettings]) -> None:
    """
    Log a warning for each variable that is nearly a setting's, with that setting, and for each former variable.

    Former variables whose names other programs use too are only shown by `config`.
    """
    known = [name.upper() for name in settings_cls.model_fields]
    for name in _names(settings_cls):
        if (nearest := _nearest(name.upper(), known)) is not None:
            log.warning("the variable %s is no setting; %s", name, nearest)
    for name, former in former_variables(settings_cls).items():
        if not former.is_general:
            log.warning(
                "the variable %s is not read: %s; `restaurant-llm-batch config --from-env .env` translates it",
                name,
                former.note,
            )


def former_variables(settings_cls: type[BaseSettings]) -> dict[str, Former]:
    """Return the former variables that are set and have an effect, as long as none of their successors is set."""
    names = {name.upper() for name in _names(settings_cls)}
    found: dict[str, Former] = {}
    for name in sorted(names):
        former = FORMER.get(name)
        if former is not None and former.successors and names.isdisjoint(former.successors):
            found[name] = former
    return found


def _names(settings_cls: type[BaseSettings]) -> set[str]:
    return {*os.environ, *map(str.upper, _names_of_env_file(settings_cls))}


def _nearest(name: str, known: list[str]) -> str | None:
    """Return a sentence for a name that is not known but ought to be."""
    if name in known or name in _ALSO_OURS or name in _KNOWN_OTHERS or former_of(name) is not None:
        return None
    ours = name.startswith(_OURS)
    if not ours and not name.startswith(_OTHERS):
        return None
    found = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR if ours else _VERY_NEAR)
    if found:
        return f"did you mean {found[0]}?"
    return "`restaurant-llm-batch config` lists them" if ours else None


def _toml_file(settings_cls: type[BaseSettings]) -> Path:
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else DEFAULT_FILE
    if not named and not path.exists():
        return path
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        where = f"{CONFIG_VARIABLE}={path}" if named else str(path)
        raise ConfigurationError(f"{where} cannot be read: {error}") from None
    _check_names(path, values, settings_cls.model_fields)
    return path


def _check_names(path: Path, values: Mapping[str, object], known: Iterable[str]) -> None:
    unknown = [name for name in values if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), list(known), n=1)
        hint = f"did you mean {near[0]}?" if near else "`restaurant-llm-batch config` lists them"
        raise ConfigurationError(f"{path}: {unknown[0]!r} is no setting; {hint}")
