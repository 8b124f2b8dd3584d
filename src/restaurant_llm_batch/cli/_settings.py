"""Options of settings: click options made of the fields of `BatchSettings`, and the settings that their values give."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from .._settings import BatchSettings
from .._settings.setting import Averages, JSONObject, Limit, Names, Prices, setting_of
from ._objects import is_object_name

GC_THRESHOLD = 50_000
"""The command line has the process to itself, so the garbage collector may run less often."""
STAGE = "4"
"""The stage of the command line, if nothing sets a stage or a switch."""
OF_COMMANDS = "default of commands"
"""Origin of a value that commands have where nothing sets it, and Python code has not."""
log = logging.getLogger("restaurant_llm_batch")

SECTIONS: Mapping[str, str] = {
    "strategy": "Strategy",
    "limits": "Limits",
    "adaptive": "Limits",
    "adaptive_batch": "Limits",
    "retry": "Retries",
    "llm_retry": "Retries",
    "search_retry": "Retries",
    "time_limits": "Time limits and stop conditions",
    "stop": "Time limits and stop conditions",
    "counter": "Limits",
    "runner": "Store, record, prices and process",
    "store": "Store, record, prices and process",
    "record": "Store, record, prices and process",
    "summary": "Tasks",
    "aspects": "Tasks",
    "sentiment": "Tasks",
    "strengths": "Tasks",
    "comparison": "Tasks",
    "vocabulary": "Tasks",
    "chunks": "Tasks",
    "llm": "Model",
    "openai": "Model",
    "openai_batch": "Model",
    "vllm": "Model",
    "engine": "Model",
    "runpod": "Model",
    "polling": "Model",
    "timeout": "Model",
    "transport": "Model",
    "search": "Search",
    "embedded": "Search",
    "qdrant": "Search",
    "embedder": "Embedder",
    "hashing": "Embedder",
    "fastembed": "Embedder",
    "api": "Embedder",
    "sparse": "Embedder",
    "serve": "Service",
}
"""Headings of the targets of settings."""

_SWITCHES = {
    "batch_search_async": "search_async",
    "batch_restaurant_async": "restaurant_async",
    "llm_async": "llm_async",
}
"""Fields of `Strategy` by the settings that set them one by one."""
_STRATEGY = frozenset({"batch_stage", *_SWITCHES})
_SEARCHES = frozenset({"batch_search_concurrency"})
_CALLS = frozenset({"batch_llm_concurrency"})
_BATCHES = frozenset({"vllm_max_concurrent_batches", "vllm_max_tokens_per_batch", "vllm_max_batch_size"})
_NAMED_TYPES = (
    (Limit, "N|auto"),
    (JSONObject, "JSON"),
    (Prices, "JSON"),
    (Names, "NAME,NAME,..."),
    (Averages, "NAME=SHARE,..."),
)
_METAVARS = {int: "N", float: "X", Path: "FILE", str: "TEXT"}


def section_of(name: str) -> str:
    """Return the heading under which a setting stands."""
    return SECTIONS[_targets(name)[0]]


@cache
def _targets(name: str) -> tuple[str, ...]:
    places = setting_of(BatchSettings.model_fields[name]).sets
    return tuple(place.partition(".")[0] for place in places)


class ModelName(click.Choice[str]):
    """One of several words, or ``module:name`` for a backend of the user's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word or the name."""
        if is_object_name(str(value)):
            return value
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            own = "nor MODULE:NAME of a backend of your own, such as my_backend:make"
            raise click.BadParameter(f"{error.message.removesuffix('.')}, {own}.", ctx, param) from None

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the words for the help."""
        return f"[{'|'.join(map(str, self.choices))}|MODULE:NAME]"


class SettingOption(click.Option):
    """
    An option that sets a field of `BatchSettings`; without it the value is None, and the environment's holds.

    Args:
        name: The field.
        choices: Values to choose from, in place of the field's.

    Attributes:
        section: The heading under which the help shows it.
    """

    def __init__(self, name: str, choices: Sequence[str] | None = None) -> None:
        field = BatchSettings.model_fields[name]
        self.section = section_of(name)
        self._field = field
        is_flag = field.annotation is bool
        allowed = tuple(choices or ()) or _choices(field)
        super().__init__(
            [option_of(name), name],
            type=_type(name, allowed, is_flag=is_flag),
            is_flag=is_flag,
            multiple=_is_list(field),
            default=None,
            metavar=None if allowed or is_flag else _metavar(name),
            help=_help(name, field),
            hidden=setting_of(field).option is None,
            callback=None if allowed or is_flag else self._read,
        )

    def _read(self, ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...] | None) -> Any:
        if value is None or value == ():
            return None
        if isinstance(value, tuple):
            value = ",".join(value)
        try:
            return TypeAdapter(self._field.rebuild_annotation()).validate_python(value)
        except ValidationError as error:
            text = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise click.BadParameter(f"{value!r}: {text[0].lower()}{text[1:]}", ctx, param) from None


def option_of(name: str) -> str:
    """Return the option of a setting; `--help` shows only those that were named by hand."""
    field = BatchSettings.model_fields[name]
    words = name.removeprefix("batch_").replace("_", "-")
    made = f"--{words}/--no-{words}" if field.annotation is bool else f"--{words}"
    return setting_of(field).option or made


class SectionedCommand(click.Command):
    """A command whose help shows the options of settings under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument):  # the usage line has it
                continue
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        if len(sections) > 1:
            formatter.write_paragraph()
            formatter.write_text(_MORE)


def options(
    *,
    search: bool = False,
    llm: bool = False,
    batches: bool = False,
    llms: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> list[click.Parameter]:
    """
    Return the options of settings that a command has, those of its own first.

    Args:
        search: Whether it searches.
        llm: Whether it makes LLM calls for single items.
        batches: Whether it makes LLM calls for batches of reviews.
        llms: Names of the models; none for a command without one.
        tasks: Targets of settings that are the command's own, such as "summary" or "serve".
    """
    own = [name for name in _with_option() if not set(tasks).isdisjoint(_targets(name))]
    left_out = {*(() if search else _SEARCHES), *(() if llm else _CALLS), *(() if batches else _BATCHES)}
    sections = {*(() if search else ("Search", "Embedder")), *(() if llms else _OF_MODELS), *_OWN}
    common = [name for name in _with_option() if name not in left_out and section_of(name) not in sections]
    return [SettingOption(name, llms if name == "batch_llm_backend" else None) for name in (*own, *common)]


_MORE = (
    "Each of these may also be an environment variable, as given in brackets, a line of .env or of a TOML file. "
    "There are more: `restaurant-llm-batch config` prints all, with what holds and where it comes from."
)
_OWN = ("Tasks", "Service")
"""Sections of settings that only some commands have."""
_OF_MODELS = (
    "Strategy",
    "Limits",
    "Retries",
    "Time limits and stop conditions",
    "Store, record, prices and process",
    "Model",
)


def take_settings(values: dict[str, Any]) -> BatchSettings:
    """
    Take the values of `SettingOption`s out of a command's values, and return the settings that they give.

    Args:
        values: The values by parameter; those of settings are removed.

    Raises:
        ConfigurationError: A setting of the environment or a file is invalid.
    """
    given = {name: values.pop(name) for name in BatchSettings.model_fields if name in values}
    given = {name: value for name, value in given.items() if value is not None}
    settings = BatchSettings(**given)
    set_here = settings.model_fields_set & _STRATEGY
    if set_here and not set_here & {"batch_stage", "batch_restaurant_async"}:
        log.warning(
            "items run one by one, because %s is set and BATCH_RESTAURANT_ASYNC is not; "
            "--stage %s runs them side by side",
            " and ".join(sorted(name.upper() for name in set_here)),
            STAGE,
        )
    return settings.model_copy(update=_command_defaults(settings))


def in_force(settings: BatchSettings) -> dict[str, tuple[Any, str]]:
    """
    Return the values that hold in a command without options, and where each comes from, by the field's name.

    A stage goes before the three switches: their values are those of the stage then, and come from it.
    """
    defaults = _command_defaults(settings)
    completed = settings.model_copy(update=defaults)
    origins = {**settings.origins(), **dict.fromkeys(defaults, OF_COMMANDS)}
    found = {name: (getattr(completed, name), origins[name]) for name in BatchSettings.model_fields}
    if completed.batch_stage is not None:
        strategy = completed.strategy()
        found |= {name: (getattr(strategy, switch), "BATCH_STAGE") for name, switch in _SWITCHES.items()}
    return found


def _command_defaults(settings: BatchSettings) -> dict[str, Any]:
    """Return the values that a command has where nothing sets one."""
    defaults: dict[str, Any] = {}
    if not settings.model_fields_set & _STRATEGY:
        defaults["batch_stage"] = STAGE
    if "batch_gc_threshold" not in settings.model_fields_set:
        defaults["batch_gc_threshold"] = GC_THRESHOLD
    return defaults


@cache
def _with_option() -> tuple[str, ...]:
    """Return the settings that may be options: no secrets, since other users of the machine see a command's options."""
    fields = BatchSettings.model_fields.items()
    return tuple(name for name, field in fields if "Secret" not in str(field.annotation))


def _type(name: str, allowed: Sequence[str], *, is_flag: bool) -> Any:
    if name == "batch_llm_backend":
        return ModelName(allowed)
    return click.Choice(allowed, case_sensitive=False) if allowed else (bool if is_flag else str)


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words of a field that takes only words."""
    kinds = [one for one in _kinds(field.annotation) if one is not type(None)]
    if not kinds or not all(get_origin(kind) is Literal for kind in kinds):
        return ()
    return tuple(word for kind in kinds for word in get_args(kind))


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) in (None, Literal) else get_args(annotation)


@cache
def _metavar(name: str) -> str:
    field = BatchSettings.model_fields[name]
    annotation = str(field.annotation)
    for alias, word in _NAMED_TYPES:
        if str(get_args(alias)[0]) in annotation:
            return word
    return next((word for kind, word in _METAVARS.items() if kind in _kinds(field.annotation)), "TEXT")


def _is_list(field: FieldInfo) -> bool:
    """Return whether a setting is a list of names, whose option may be given several times."""
    return str(get_args(Names)[0]) in str(field.annotation)


def _help(name: str, field: FieldInfo) -> str:
    default = field.default
    shown = "" if default is None or default is False or default == "" else f", default {default}"
    return f"{field.description}  [{name.upper()}{shown}]"
