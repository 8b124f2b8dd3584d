"""Where reviews come from: a file, a folder that was indexed, or the sample that is shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ConfigurationError
from ..models import ItemId, Review
from ..search.embedded.search import EmbeddedSearch, IndexReport
from . import _backends as services
from ._reading import FileError, ReviewLines

if TYPE_CHECKING:
    from ..search import QdrantSearch

SAMPLE = "the shipped sample"
_LABEL = "restaurant_llm_batch.json"
_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class NamedItems:
    """
    Restaurants, or documents, that are known by name.

    Attributes:
        label: What to call the place where they are.
        ids: Their ids, in the order of the file, or sorted.
        names: Their names by id as a string, where they have any.
        what: What one of them is called.
    """

    label: str
    ids: Sequence[ItemId]
    names: Mapping[str, str] = field(default_factory=dict)
    what: str = "restaurant"

    def title(self, item_id: ItemId | None) -> str:
        """Return a name, or the id where there is none."""
        return self.names.get(str(item_id), str(item_id))

    def pick(self, wanted: Sequence[str]) -> list[ItemId]:
        """
        Return ids, each once.

        Args:
            wanted: The ids as they were typed: "1" finds 1 as well.

        Raises:
            ConfigurationError: There is none of that id here.
        """
        known = {str(one): one for one in self.ids}
        missing = [name for name in wanted if name not in known]
        if missing:
            some = ", ".join(list(known)[:_MAX_NAMED])
            more = ", ..." if len(known) > _MAX_NAMED else ""
            raise ConfigurationError(
                f"there is no {self.what} {' or '.join(map(repr, missing))} in {self.label}, which has "
                f"{len(known):,} (ids {some}{more})"
            )
        return [known[name] for name in dict.fromkeys(wanted)]


@dataclass(frozen=True, kw_only=True)
class ReviewSource(NamedItems):
    """
    Reviews that can be searched.

    Attributes:
        search: The search.
        categories: The restaurants' kinds of food by id as a string, where a file says them.
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
    Return a file of reviews, and what to call it.

    Args:
        path: The file; None for the sample.

    Raises:
        ConfigurationError: There is no such file.
    """
    if path is None:
        with as_file(files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl") as sample:
            yield sample, SAMPLE
        return
    if not path.exists():
        raise ConfigurationError(f"there is no file {str(path)!r}")
    if path.is_dir():
        raise ConfigurationError(
            f"{str(path)!r} is a folder; every review is read here, not only those that a search finds: "
            "name the file that they are in"
        )
    yield path, str(path)


def open_source(path: Path | None, progress: Console | None) -> ReviewSource:
    """
    Open a source to search in; a file is indexed in memory.

    Args:
        path: A JSON Lines file or an indexed folder; None for the sample.
        progress: Where indexing shows how far it is; None for nowhere.

    Raises:
        ConfigurationError: There is nothing that can be read.
    """
    if path is not None and not path.exists():
        raise ConfigurationError(f"there is no file or folder {str(path)!r}")
    if path is not None and path.is_dir():
        return _from_folder(path)
    with review_file(path) as (file, label):
        return _from_file(file, label, progress)


def in_qdrant(path: Path | None, url: str | None, collection: str | None) -> ReviewSource:
    """
    Open a collection of a Qdrant server.

    Args:
        path: A source that was named besides, which is a mistake.
        url: The server; None for the environment's.
        collection: Its name; likewise.

    Raises:
        ConfigurationError: Both were named, or nothing says where the server is.
        BackendError: The server cannot be asked.
    """
    if path is not None:
        raise ConfigurationError(
            f"--search qdrant reads the reviews from a server; leave {str(path)!r} out, or put it there with "
            f"`restaurant-llm-batch index {path} --search qdrant`"
        )
    search, label = services.qdrant(url, collection)
    return ReviewSource(label=label, ids=search.restaurant_ids(), search=search)


class _CategorisedLines(ReviewLines):
    """Keeps the first category that is read of each restaurant, in `categories`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.categories: dict[str, ItemId] = {}

    def __iter__(self) -> Iterator[Review]:
        for review in super().__iter__():
            if review.category is not None:
                self.categories.setdefault(str(review.restaurant_id), review.category)
            yield review


def _from_file(path: Path, label: str, progress: Console | None) -> ReviewSource:
    lines, search = _CategorisedLines(path), EmbeddedSearch(embedder=services.embedder())
    index_lines(lines, search, path.stat().st_size, progress)
    return ReviewSource(
        label=label,
        ids=list(lines.restaurants.values()),
        names=lines.names,
        search=search,
        categories=lines.categories,
    )


def _from_folder(path: Path) -> ReviewSource:
    if not (path / _LABEL).exists():
        raise ConfigurationError(
            f"the folder {str(path)!r} is not an index; make one with "
            f"`restaurant-llm-batch index REVIEWS.jsonl --into FOLDER`"
        )
    search = EmbeddedSearch(path, embedder=services.embedder())
    return ReviewSource(label=str(path), ids=search.restaurant_ids(), search=search)


_TEXTS = (".txt", ".md")


@dataclass(frozen=True, kw_only=True)
class Documents(NamedItems):
    """
    Texts by name.

    Attributes:
        texts: The texts by id as a string.
    """

    texts: Mapping[str, str]
    what: str = "document"


def read_documents(paths: Sequence[Path]) -> Documents:
    """
    Read text files, each a document; or a file of reviews, whose restaurants each are one.

    Args:
        paths: Text files, or one file of reviews; none for the sample.

    Raises:
        ConfigurationError: They cannot be used.
    """
    texts = [path for path in paths if path.suffix.lower() in _TEXTS]
    if texts and len(texts) == len(paths):
        return _from_texts(dict.fromkeys(texts))
    if len(paths) > 1:
        raise ConfigurationError(
            f"name text files ({', '.join(_TEXTS)}), as many as you like, or one file of reviews; "
            f"{str(next(path for path in paths if path not in texts))!r} is no text file"
        )
    known = read_grouped(paths[0] if paths else None)
    # A review that ends without a full stop must not run into the next.
    joined = {str(one): "\n".join(review.content for review in known.of(one)) for one in known.ids}
    return Documents(label=known.label, ids=known.ids, names=known.names, texts=joined)


def _from_texts(paths: Mapping[Path, None]) -> Documents:
    texts = {str(path): _read(path) for path in paths}
    ids: list[ItemId] = [*texts]
    return Documents(label="the files" if len(ids) > 1 else "the file", ids=ids, texts=texts)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{str(path)!r}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise FileError(f"cannot read {str(path)!r}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class GroupedReviews(NamedItems):
    """
    Restaurants and all of their reviews.

    Attributes:
        reviews: The reviews by the restaurant's id as a string, in the order of the file.
    """

    reviews: Mapping[str, Sequence[Review]]

    def of(self, restaurant_id: ItemId) -> Sequence[Review]:
        """Return the reviews of a restaurant."""
        return self.reviews.get(str(restaurant_id), ())


def read_grouped(path: Path | None, kind: type[ReviewLines] = ReviewLines) -> GroupedReviews:
    """
    Read a file of reviews; its restaurants are in the order of their first appearance.

    Args:
        path: The file; None for the sample.
        kind: What reads its lines.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    with review_file(path) as (file, label):
        lines = kind(file)
        reviews = _by_restaurant(lines)
    return GroupedReviews(
        label=label, ids=list(lines.restaurants.values()), names=lines.names, reviews=reviews
    )


def _by_restaurant(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    found: dict[str, list[Review]] = {}
    for review in reviews:
        found.setdefault(str(review.restaurant_id), []).append(review)
    return found


Index: TypeAlias = "EmbeddedSearch | QdrantSearch"
"""Where reviews can be put."""


def index_lines(lines: ReviewLines, search: Index, size: int, progress: Console | None) -> IndexReport:
    """
    Index the reviews of a file.

    Args:
        lines: The file.
        search: Where they go.
        size: The file's size in bytes.
        progress: Where to show how far it is, if that is a terminal; None for nowhere.

    Returns:
        What was indexed.

    Raises:
        ConfigurationError: A line cannot be used.
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
        raise lines.complaint(str(error)) from error
