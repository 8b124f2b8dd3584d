"""Sources of reviews and documents: a file, an index folder, a Qdrant collection, or the built-in sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .._settings import BatchSettings
from ..errors import ConfigurationError
from ..models import ItemId, Review
from ..search.embedded.search import EmbeddedSearch, IndexReport
from . import _backends as services
from ._reading import FileError, ReviewLines

if TYPE_CHECKING:
    from ..search import QdrantSearch

SAMPLE = "the shipped sample"
_INDEX_MARKER = "restaurant_llm_batch.json"
"""File that `EmbeddedSearch` writes into the folder of an index."""
_MAX_IDS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class NamedItems:
    """
    Ids and names of the restaurants or documents of a source.

    Attributes:
        label: Name of the source for messages.
        ids: The ids, in the order of the file, or sorted.
        names: Names by id as a string, as far as the source has them.
        what: Singular noun for an item.
    """

    label: str
    ids: Sequence[ItemId]
    names: Mapping[str, str] = field(default_factory=dict)
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
    if not path.exists():
        raise ConfigurationError(f"there is no file {str(path)!r}")
    if path.is_dir():
        raise ConfigurationError(
            f"{str(path)!r} is a folder; this command reads every review, not only those that a search finds: "
            "name the file of the reviews"
        )
    yield path, str(path)


def open_source(path: Path | None, progress: Console | None, settings: BatchSettings) -> ReviewSource:
    """
    Open a source for search: a file, which is indexed in memory, a folder, or a Qdrant collection.

    Args:
        path: A JSON Lines file or an index folder; None for the folder of the settings, or the built-in sample.
        progress: Console for the progress of indexing; None for no progress.
        settings: The search and the embedder.

    Raises:
        ConfigurationError: The path does not exist, or is neither a valid file nor an index.
    """
    if settings.batch_search_backend == "qdrant":
        return _in_qdrant(path, settings)
    path = settings.batch_search_path if path is None else path
    if path is not None and not path.exists():
        raise ConfigurationError(f"there is no file or folder {str(path)!r}")
    if path is not None and path.is_dir():
        return _from_folder(path, settings)
    with review_file(path) as (file, label):
        return _from_file(file, label, progress, settings)


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


class _CategoryLines(ReviewLines):
    """Iterates over reviews and keeps the first category of each restaurant in `categories`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.categories: dict[str, ItemId] = {}

    def __iter__(self) -> Iterator[Review]:
        for review in super().__iter__():
            if review.category is not None:
                self.categories.setdefault(str(review.restaurant_id), review.category)
            yield review


def _from_file(path: Path, label: str, progress: Console | None, settings: BatchSettings) -> ReviewSource:
    lines, search = _CategoryLines(path), EmbeddedSearch(embedder=settings.embedder())
    index_lines(lines, search, path.stat().st_size, progress)
    return ReviewSource(
        label=label,
        ids=list(lines.restaurants.values()),
        names=lines.names,
        search=search,
        categories=lines.categories,
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


def read_documents(paths: Sequence[Path]) -> Documents:
    """
    Read text files, each a document; or a file of reviews, with one document per restaurant.

    Args:
        paths: Text files, or one file of reviews; empty for the built-in sample.

    Raises:
        ConfigurationError: A file cannot be read, or the files are of different kinds.
    """
    text_files = [path for path in paths if path.suffix.lower() in _TEXT_SUFFIXES]
    if text_files and len(text_files) == len(paths):
        return _from_text_files(dict.fromkeys(text_files))
    if len(paths) > 1:
        raise ConfigurationError(
            f"name text files ({', '.join(_TEXT_SUFFIXES)}), as many as you like, or one file of reviews; "
            f"{str(next(path for path in paths if path not in text_files))!r} is not a text file"
        )
    grouped = read_grouped(paths[0] if paths else None)
    # Joined by line ends, so that a review without a final full stop does not run into the next.
    texts = {
        str(item_id): "\n".join(review.content for review in grouped.of(item_id)) for item_id in grouped.ids
    }
    return Documents(label=grouped.label, ids=grouped.ids, names=grouped.names, texts=texts)


def _from_text_files(paths: Mapping[Path, None]) -> Documents:
    texts = {str(path): _read_text(path) for path in paths}
    ids: list[ItemId] = [*texts]
    return Documents(label="the files" if len(ids) > 1 else "the file", ids=ids, texts=texts)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{str(path)!r}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise FileError(f"cannot read {str(path)!r}: {error.strerror}") from error


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


def read_grouped(path: Path | None, reader: type[ReviewLines] = ReviewLines) -> GroupedReviews:
    """
    Read a file of reviews, grouped by restaurant, in the order of first appearance.

    Args:
        path: The file; None for the built-in sample.
        reader: Class that reads its lines.

    Raises:
        ConfigurationError: The file cannot be read or is invalid.
    """
    with review_file(path) as (file, label):
        lines = reader(file)
        reviews = _by_restaurant(lines)
    return GroupedReviews(
        label=label, ids=list(lines.restaurants.values()), names=lines.names, reviews=reviews
    )


def _by_restaurant(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    groups: dict[str, list[Review]] = {}
    for review in reviews:
        groups.setdefault(str(review.restaurant_id), []).append(review)
    return groups


Index: TypeAlias = "EmbeddedSearch | QdrantSearch"
"""A search backend that can index reviews."""


def index_lines(lines: ReviewLines, search: Index, size: int, progress: Console | None) -> IndexReport:
    """
    Index the reviews of a file.

    Args:
        lines: The file.
        search: The search backend to index them in.
        size: Size of the file in bytes.
        progress: Console for a progress bar, shown if it is a terminal; None for no progress.

    Returns:
        Counts of the reviews.

    Raises:
        ConfigurationError: A line is invalid.
    """
    if progress is None or not progress.is_terminal:
        return _index(lines, search, None)
    columns = TextColumn("Indexing"), BarColumn(), TextColumn("{task.fields[reviews]:,} reviews")
    with Progress(*columns, TimeRemainingColumn(), console=progress, transient=True) as bar:
        task = bar.add_task("", total=size, reviews=0)

        def show(written: int) -> None:
            bar.update(task, completed=lines.bytes_read, reviews=written)

        return _index(lines, search, show)


def _index(lines: ReviewLines, search: Index, show: Callable[[int], object] | None) -> IndexReport:
    try:
        return search.index_reviews(lines, on_progress=show)
    except FileError:
        raise
    except ConfigurationError as error:
        raise lines.file_error(str(error)) from error
