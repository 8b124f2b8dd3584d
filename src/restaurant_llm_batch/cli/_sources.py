"""Where reviews come from: a file, a folder that was indexed, or the sample that is shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from ..errors import ConfigurationError
from ..models import ItemId, Review
from ..search import EmbeddedSearch
from . import _backends as services
from ._indexing import Index, index_lines
from ._reading import ReviewLines

SAMPLE = "the shipped sample"
_LABEL = "restaurant_llm_batch.json"
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Known:
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
            some = ", ".join(list(known)[:_MOST_NAMED])
            more = ", ..." if len(known) > _MOST_NAMED else ""
            raise ConfigurationError(
                f"there is no {self.what} {' or '.join(map(repr, missing))} in {self.label}, which has "
                f"{len(known):,} (ids {some}{more})"
            )
        return [known[name] for name in dict.fromkeys(wanted)]


@dataclass(frozen=True, kw_only=True)
class Source(Known):
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


def open_source(path: Path | None, progress: Console | None) -> Source:
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


def in_qdrant(path: Path | None, url: str | None, collection: str | None) -> Source:
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
    return Source(label=label, ids=search.restaurant_ids(), search=search)


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


def _from_file(path: Path, label: str, progress: Console | None) -> Source:
    lines, search = _CategorisedLines(path), EmbeddedSearch(embedder=services.embedder())
    index_lines(lines, search, path.stat().st_size, progress)
    return Source(
        label=label,
        ids=list(lines.restaurants.values()),
        names=lines.names,
        search=search,
        categories=lines.categories,
    )


def _from_folder(path: Path) -> Source:
    if not (path / _LABEL).exists():
        raise ConfigurationError(
            f"the folder {str(path)!r} is not an index; make one with "
            f"`restaurant-llm-batch index REVIEWS.jsonl --into FOLDER`"
        )
    search = EmbeddedSearch(path, embedder=services.embedder())
    return Source(label=str(path), ids=search.restaurant_ids(), search=search)
