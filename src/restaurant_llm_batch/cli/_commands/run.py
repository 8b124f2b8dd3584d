"""Command `run`: apply a task of the user's own to the rows of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..._engine.items import as_task
from ..._rows.columns import TableForm
from ..._rows.table import ItemTable
from ..._text import terminal_text
from ...errors import ConfigurationError
from ...outcomes import Success
from ...protocols import Task
from ...records._reading import row_source
from ...steps import Gather, Search, SearchAll
from .. import _objects as objects
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import LoadedInput, RunOptions
from .._running import command as run_command
from .._sources import NamedItems, open_source
from .._views import ResultView

_HELP = """
Apply a task of your own to the rows of a file.

TASK is module:name: a task, a class of tasks, or a generator function of one item. ITEMS is a file: a table (CSV, TSV,
Parquet, Excel) with a line of names, JSON, JSON Lines, or .txt with an item a line; - for standard input. A row of a
table reaches the task as a dict, in which an empty cell is None, a line of .txt as a text. An item needs an id: it is
one, or has one in `id`, `item_id`, `restaurant_id` or `document_id`.

\b
    restaurant-llm-batch run my_tasks:topic remarks.csv --llm my_backend:make
    restaurant-llm-batch run my_tasks:complaints items.jsonl --llm vllm --llm-url http://localhost:8000
    restaurant-llm-batch run my_tasks:best_dish ids.txt --reviews reviews.jsonl --llm my_backend:make
"""


@dataclass(frozen=True, kw_only=True)
class OwnTaskOptions(RunOptions[Any]):
    """Values of the command's options."""

    named: str
    items: Path
    reviews: Path | None

    @property
    def task(self) -> Task[Any]:
        """The task."""
        return as_task(objects.make_object(self.named, "the task"))

    @property
    def paths(self) -> Sequence[Path]:
        """The input files."""
        return [path for path in (self.items, self.reviews) if path is not None]

    def load(self, progress: Console | None) -> LoadedInput:
        """Read the items, and open the reviews if the task or an option asks for a search."""
        table = ItemTable(row_source(self.items, self.form), self.form)
        items: Callable[[ItemTable], Iterable[Any]] = getattr(self.task, "items_of_table", iter)
        rows = list(islice(items(table), self.first))
        source = NamedItems(label=str(self.items), ids=[], skipped=table.skipped, what="item")
        if not rows:
            raise ConfigurationError(f"{table.label} has no item")
        searches = self.reviews is not None or self.task.requires_search or self._settings_name_a_search
        search = (
            open_source(self.reviews, progress, self.settings, self._of_reviews, self.index_folder).search
            if searches
            else None
        )
        if search is None and not self.preview and _begins_with_a_search(self.task, rows[0]):
            raise ConfigurationError(
                f"the task {self.named} searches for reviews: pass --reviews FILE, a file of reviews or a folder made "
                "by `restaurant-llm-batch index`; or give each item its reviews, if the task takes them"
            )
        return LoadedInput(items=rows, source=source, search=search)

    @property
    def _of_reviews(self) -> TableForm:
        """The form of the reviews, in which the columns of the items are not named."""
        return replace(self.form, columns=None)

    @property
    def _settings_name_a_search(self) -> bool:
        return self.settings.batch_search_path is not None or self.settings.batch_search_backend == "qdrant"


def _begins_with_a_search(task: Task[Any], row: Any) -> bool:
    """Return whether the first step for an item is a search; a function does not say so before it is run."""
    try:
        return _searches(next(task.flow(task.parse_item(row))))
    except Exception:  # the run will fail with it, and say where
        return False


def _searches(step: object) -> bool:
    if isinstance(step, Gather):
        return any(_searches(next(flow, None)) for flow in step.flows)
    return isinstance(step, (Search, SearchAll))


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    path = click.Path(path_type=Path, allow_dash=True)
    own = [
        click.Argument(["named"], metavar="TASK"),
        click.Argument(["items"], type=path, metavar="ITEMS"),
        click.Option(
            ["--reviews"],
            type=click.Path(path_type=Path),
            metavar="FILE|FOLDER",
            help="The reviews that the task searches: a file, or a folder made by `index`.",
        ),
        click.Option(["--first"], type=click.IntRange(min=1), metavar="N", help="Only the first N items."),
    ]
    options = [
        *own,
        *settings.options(search=True, llm=True, batches=True, llms=[*llms]),
        *reading.options(),
        *parameters.results(),
    ]
    view: ResultView[Any] = ResultView(
        table=_table,
        record=_record,
        done="done",
        count_failed_parts=lambda _: 0,
        failed_part_phrases=("part failed", "parts failed"),
        parts=("aspects", "labels", "words"),
        offline="the answers are those of the built-in offline model, which knows the built-in tasks only",
        what="item",
        with_ids=True,
    )
    return run_command("run", _HELP, options, OwnTaskOptions, view, llms)


def _table(results: Sequence[Success[Any]], source: NamedItems) -> Table:
    """Return a table of items with their results as JSON."""
    table = tables.named_table("Item", "Result")
    table.columns[1].ratio = 1
    for success in results:
        table.add_row(tables.name_cell(source, success.item_id), Text(terminal_text(_text(success.value))))
    return table


def _record(success: Success[Any]) -> Mapping[str, Any]:
    return {"item_id": success.item_id, "value": _plain(success.value)}


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, serialize_unknown=True)


def _text(value: Any) -> str:
    plain = _plain(value)
    if not isinstance(plain, dict):
        return str(plain)
    return "; ".join(f"{name}: {_text(one)}" for name, one in plain.items())
