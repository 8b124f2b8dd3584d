"""Where reviews come from: a file, a folder that was indexed, or the sample that is shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from ..backends import EmbeddedSearch
from ..errors import ConfigurationError
from ..models import ItemId
from . import services
from .indexing import Index, index_lines
from .lines import ReviewLines

SAMPLE = "the shipped sample"
_LABEL = "restaurant_llm_batch.json"
_MOST_NAMED = 5


@dataclass(frozen=True)
class Source:
    """
    Reviews that can be searched.

    Attributes:
        label: What to call it.
        search: The search.
        restaurant_ids: Its restaurants, in the order of the file, or sorted.
        names: Their names by id as a string, where they are known.
    """

    label: str
    search: Index
    restaurant_ids: Sequence[ItemId]
    names: Mapping[str, str] = field(default_factory=dict)

    def title(self, restaurant_id: ItemId | None) -> str:
        """Return a restaurant's name, or its id."""
        return self.names.get(str(restaurant_id), str(restaurant_id))

    def pick(self, wanted: Sequence[str]) -> list[ItemId]:
        """
        Return restaurants by their ids, each once.

        Args:
            wanted: The ids as they were typed: "1" finds 1 as well.

        Raises:
            ConfigurationError: There is no such restaurant here.
        """
        known = {str(one): one for one in self.restaurant_ids}
        missing = [name for name in wanted if name not in known]
        if missing:
            some = ", ".join(list(known)[:_MOST_NAMED])
            more = ", ..." if len(known) > _MOST_NAMED else ""
            raise ConfigurationError(
                f"there is no restaurant {' or '.join(map(repr, missing))} in {self.label}, which has "
                f"{len(known):,} (ids {some}{more})"
            )
        return [known[name] for name in dict.fromkeys(wanted)]


def open_source(path: Path | None, progress: Console | None) -> Source:
    """
    Open a source; a file is indexed in memory.

    Args:
        path: A JSON Lines file or an indexed folder; None for the sample.
        progress: Where indexing shows how far it is; None for nowhere.

    Raises:
        ConfigurationError: There is nothing that can be read.
    """
    if path is None:
        with as_file(files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl") as sample:
            return _from_file(sample, SAMPLE, progress)
    if not path.exists():
        raise ConfigurationError(f"there is no file or folder {str(path)!r}")
    return _from_folder(path) if path.is_dir() else _from_file(path, str(path), progress)


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
    return Source(label, search, search.restaurant_ids())


def _from_file(path: Path, label: str, progress: Console | None) -> Source:
    lines, search = ReviewLines(path), EmbeddedSearch(embedder=services.embedder())
    index_lines(lines, search, path.stat().st_size, progress)
    return Source(label, search, list(lines.restaurants.values()), lines.names)


def _from_folder(path: Path) -> Source:
    if not (path / _LABEL).exists():
        raise ConfigurationError(
            f"the folder {str(path)!r} is not an index; make one with "
            f"`restaurant-llm-batch index REVIEWS.jsonl --into FOLDER`"
        )
    search = EmbeddedSearch(path, embedder=services.embedder())
    return Source(str(path), search, search.restaurant_ids())
