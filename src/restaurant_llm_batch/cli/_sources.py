"""Sources of reviews and documents: a file, an index folder, a Qdrant collection, or the built-in sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .._rows.columns import TableForm
from .._rows.polarity import Polarity
from .._rows.review_rows import ReviewTable
from .._rows.table import FileError
from .._settings import BatchSettings
from ..errors import ConfigurationError
from ..models import ItemId, Review
from ..records._decoding import decode
from ..records._opening import STDIN, check, opened
from ..records._reading import is_folder_of_tables, row_source
from ..search.embedded.search import EmbeddedSearch, IndexReport
from . import _backends as services

if TYPE_CHECKING:
    from ..search import QdrantSearch

SAMPLE = "the shipped sample"
_INDEX_MARKER = "restaurant_llm_batch.json"
"""File that `EmbeddedSearch` writes into the folder of an index."""
_MAX_IDS_SHOWN = 5
_SHOWN_EVERY = 1_000
"""Reviews between two updates of a progress bar."""


@dataclass(frozen=True, kw_only=True)
class NamedItems:
    """
    Ids and names of the restaurants or documents of a source.

    Attributes:
        label: Name of the source for messages.
        ids: The ids, in the order of the file, or sorted.
        names: Names by id as a string, as far as the source has them.
        skipped: Number of bad rows that were left out.
        what: Singular noun for an item.
    """

    label: str
    ids: Sequence[ItemId]
    names: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0
    what: str = "restaurant"

    def title(self, item_id: ItemId | None) -> str:
        """Return the name of an item, or its id if it has no name."""
        return self.names.get(str(item_id), str(item_id))

    def pick(self, typed_ids: Sequence[str]) -> list[ItemId]:
        """
        Return the ids that the user named, each once.

        Args:
            typed_ids: The ids as typed by the user; "1" matches both 1 and "1".

        Raises:
            ConfigurationError: The source has no item of an id.
        """
        by_text = {str(item_id): item_id for item_id in self.ids}
        missing = [text for text in typed_ids if text not in by_text]
        if missing:
            examples = ", ".join(list(by_text)[:_MAX_IDS_SHOWN])
            ellipsis = ", ..." if len(by_text) > _MAX_IDS_SHOWN else ""
            raise ConfigurationError(
                f"there is no {self.what} {' or '.join(map(repr, missing))} in {self.label}, which has "
                f"{len(by_text):,} (ids {examples}{ellipsis})"
            )
        return [by_text[text] for text in dict.fromkeys(typed_ids)]


@dataclass(frozen=True, kw_only=True)
class ReviewSource(NamedItems):
    """
    A source of reviews with a search backend.

    Attributes:
        search: The search backend.
        categories: The restaurants' kinds of food by id as a string, as far as a file has them.
    """

    search: Index
    categories: Mapping[str, ItemId] = field(default_factory=dict)

    @property
    def restaurant_ids(self) -> Sequence[ItemId]:
        """The restaurants' ids."""
        return self.ids


@contextmanager
def review_file(path: Path | None) -> Iterator[tuple[Path, str]]:
    """
    Return the path of a file of reviews, and its name for messages.

    Args:
        path: The file; None for the built-in sample.

    Raises:
        ConfigurationError: The file does not exist, or is a folder.
    """
    if path is None:
        with as_file(files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl") as sample:
            yield sample, SAMPLE
        return
    check(path)
    if path.is_dir() and not is_folder_of_tables(path):
        raise ConfigurationError(
            f"{str(path)!r} is a folder; this command reads every review, not only those that a search finds: "
            "name the file of the reviews"
        )
    yield path, "standard input" if str(path) == STDIN else str(path)


def open_source(
    path: Path | None,
    progress: Console | None,
    settings: BatchSettings,
    form: TableForm,
    index_folder: Path | None = None,
) -> ReviewSource:
    """
    Open a source for search: a file, which is indexed, a folder, or a Qdrant collection.

    Args:
        path: A file, "-" for standard input, or an index folder; None for the folder of the settings, or the built-in
            sample.
        progress: Console for the progress of indexing; None for no progress.
        settings: The search and the embedder.
        form: How to read the file.
        index_folder: Where to index the file; None for a temporary folder.

    Raises:
        ConfigurationError: The path does not exist, or is neither a valid file nor an index.
    """
    if settings.batch_search_backend == "qdrant":
        return _in_qdrant(path, settings)
    path = settings.batch_search_path if path is None else path
    if path is not None and str(path) != STDIN and not path.exists():
        raise ConfigurationError(f"there is no file or folder {str(path)!r}")
    if (
        path is not None
        and path.is_dir()
        and ((path / _INDEX_MARKER).exists() or not is_folder_of_tables(path))
    ):
        return _from_folder(path, settings)
    with review_file(path) as (file, label):
        return _from_file(file, label, progress, settings, form, index_folder)


def _in_qdrant(path: Path | None, settings: BatchSettings) -> ReviewSource:
    """
    Open a collection of a Qdrant server.

    Args:
        path: The argument SOURCE, which must be None here.
        settings: The server, its collection and the embedder.

    Raises:
        ConfigurationError: `path` is not None, or neither an option nor the environment has the server's URL.
        BackendError: The server cannot be reached.
    """
    if path is not None:
        raise ConfigurationError(
            f"--search qdrant reads the reviews from a server; leave {str(path)!r} out, or put it there with "
            f"`restaurant-llm-batch index {path} --search qdrant`"
        )
    search, label = services.qdrant(settings)
    return ReviewSource(label=label, ids=search.restaurant_ids(), search=search)


def open_reviews(path: Path, form: TableForm, polarity: Polarity | None = None) -> ReviewTable:
    """Open a file of reviews."""
    return ReviewTable(row_source(path, form), form, polarity)


def _from_file(
    path: Path,
    label: str,
    progress: Console | None,
    settings: BatchSettings,
    form: TableForm,
    index_folder: Path | None,
) -> ReviewSource:
    table, search = open_reviews(path, form), EmbeddedSearch(index_folder, embedder=settings.embedder())
    index_table(table, search, progress)
    return ReviewSource(
        label=label,
        ids=list(table.restaurants.values()),
        names=table.names,
        skipped=table.skipped,
        search=search,
        categories=table.categories,
    )


def _from_folder(path: Path, settings: BatchSettings) -> ReviewSource:
    if not (path / _INDEX_MARKER).exists():
        raise ConfigurationError(
            f"the folder {str(path)!r} is not an index; make one with "
            f"`restaurant-llm-batch index REVIEWS.jsonl --into FOLDER`"
        )
    search = EmbeddedSearch(path, embedder=settings.embedder())
    return ReviewSource(label=str(path), ids=search.restaurant_ids(), search=search)


_TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, kw_only=True)
class Documents(NamedItems):
    """
    A source of documents.

    Attributes:
        texts: Texts of the documents by id as a string.
    """

    texts: Mapping[str, str]
    what: str = "document"


def read_documents(paths: Sequence[Path], form: TableForm, progress: Console | None) -> Documents:
    """
    Read text files, each a document; or a file of reviews, with one document per restaurant.

    Args:
        paths: Text files, or one file of reviews; empty for the built-in sample.
        form: How to read them.
        progress: Console for the progress; None for no progress.

    Raises:
        ConfigurationError: A file cannot be read, or the files are of different kinds.
    """
    text_files = [path for path in paths if path.suffix.lower() in _TEXT_SUFFIXES]
    if text_files and len(text_files) == len(paths):
        return _from_text_files(dict.fromkeys(text_files), form)
    if len(paths) > 1:
        raise ConfigurationError(
            f"name text files ({', '.join(_TEXT_SUFFIXES)}), as many as you like, or one file of reviews; "
            f"{str(next(path for path in paths if path not in text_files))!r} is not a text file"
        )
    grouped = read_grouped(paths[0] if paths else None, form, progress)
    # Joined by line ends, so that a review without a final full stop does not run into the next.
    texts = {
        str(item_id): "\n".join(review.content for review in grouped.of(item_id)) for item_id in grouped.ids
    }
    return Documents(
        label=grouped.label, ids=grouped.ids, names=grouped.names, skipped=grouped.skipped, texts=texts
    )


def _from_text_files(paths: Mapping[Path, None], form: TableForm) -> Documents:
    texts = {str(path): _read_text(path, form) for path in paths}
    ids: list[ItemId] = [*texts]
    return Documents(label="the files" if len(ids) > 1 else "the file", ids=ids, texts=texts)


def _read_text(path: Path, form: TableForm) -> str:
    with opened(path) as file:
        return decode(file, form.encoding, form.advice)


@dataclass(frozen=True, kw_only=True)
class GroupedReviews(NamedItems):
    """
    A source of restaurants with all their reviews.

    Attributes:
        reviews: Reviews by the restaurant's id as a string, in the order of the file.
    """

    reviews: Mapping[str, Sequence[Review]]

    def of(self, restaurant_id: ItemId) -> Sequence[Review]:
        """Return the reviews of a restaurant."""
        return self.reviews.get(str(restaurant_id), ())


def read_grouped(
    path: Path | None, form: TableForm, progress: Console | None, polarity: Polarity | None = None
) -> GroupedReviews:
    """
    Read a file of reviews, grouped by restaurant, in the order of first appearance.

    Args:
        path: The file; "-" for standard input, None for the built-in sample.
        form: How to read it.
        progress: Console for the progress; None for no progress.
        polarity: How to read which reviews are positive; None not to.

    Raises:
        ConfigurationError: The file cannot be read or is invalid.
    """
    with review_file(path) as (file, label):
        table = open_reviews(file, form, polarity)
        reviews = _by_restaurant(table, progress)
    return GroupedReviews(
        label=label,
        ids=list(table.restaurants.values()),
        names=table.names,
        skipped=table.skipped,
        reviews=reviews,
    )


def _by_restaurant(table: ReviewTable, progress: Console | None) -> dict[str, list[Review]]:
    groups: dict[str, list[Review]] = {}
    with _shown("Reading", table, progress) as show:
        for count, review in enumerate(table, 1):
            groups.setdefault(str(review.restaurant_id), []).append(review)
            if show is not None and count % _SHOWN_EVERY == 0:
                show(count)
    return groups


Index: TypeAlias = "EmbeddedSearch | QdrantSearch"
"""A search backend that can index reviews."""


def index_table(table: ReviewTable, search: Index, progress: Console | None) -> IndexReport:
    """
    Index the reviews of a table.

    Args:
        table: The table.
        search: The search backend to index them in.
        progress: Console for a progress bar, shown if it is a terminal; None for no progress.

    Returns:
        Counts of the reviews.

    Raises:
        ConfigurationError: A row is invalid.
    """
    try:
        with _shown("Indexing", table, progress) as show:
            return search.index_reviews(table, on_progress=show)
    except FileError:
        raise
    except ConfigurationError as error:
        raise table.file_error(str(error)) from error


@contextmanager
def _shown(
    title: str, table: ReviewTable, progress: Console | None
) -> Iterator[Callable[[int], object] | None]:
    """Show a progress bar for a block that reads a table; the function it gets takes the number of reviews."""
    if progress is None or not progress.is_terminal:
        yield None
        return
    columns = TextColumn(title), BarColumn(), TextColumn("{task.fields[reviews]:,} reviews")
    with Progress(*columns, TimeRemainingColumn(), console=progress, transient=True) as bar:
        task = bar.add_task("", total=table.size, reviews=0)
        yield lambda count: bar.update(task, completed=table.bytes_read, reviews=count)
