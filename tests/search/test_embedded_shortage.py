"""Shortages of this machine: a full disk, a folder without access, too many open files: sentences, and nothing lost."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from restaurant_llm_batch import SearchQuery
from restaurant_llm_batch.errors import PermanentBackendError, TransientBackendError
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search.embedded._folder import folder_error


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


ROWS = [{"restaurant_id": 1, "id": i, "content": f"맛있는 국수 {i}"} for i in range(20)]


def disk(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    """Let the disk have so many bytes free, one number for each look; the last stays."""
    looks = list(free)

    def usage(folder: object) -> Usage:
        return Usage(2**40, 0, looks.pop(0) if len(looks) > 1 else looks[0])

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_full_disk_is_a_sentence_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk(monkeypatch, 2**20)

    with pytest.raises(
        PermanentBackendError, match=r"disk of the index in .* is full: 1 MB are free, and 32 MB"
    ):
        EmbeddedSearch(tmp_path / "index").index_reviews(ROWS)

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_is_indexed_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = EmbeddedSearch(tmp_path / "index")
    disk(monkeypatch, 2**40, 2**40, 2**40, 2**20)

    with pytest.raises(PermanentBackendError, match="10 reviews were indexed before, and are kept"):
        search.index_reviews(ROWS, batch_size=5)

    search.close()
    again = EmbeddedSearch(tmp_path / "index")
    assert again.count() == 10
    assert len(again.search(SearchQuery(1, "국수"))) == 10


def test_a_folder_system_without_a_size_is_not_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 0))

    assert EmbeddedSearch(tmp_path / "index").index_reviews(ROWS).reviews == 20


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), PermanentBackendError, "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), PermanentBackendError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), PermanentBackendError, "give this user access"),
        (OSError(errno.EROFS, "Read-only file system"), PermanentBackendError, "give this user access"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), PermanentBackendError, "name a folder in one"),
        (OSError(errno.EMFILE, "Too many open files"), TransientBackendError, "raise the limit"),
        (
            RuntimeError('Os { code: 28, kind: StorageFull, message: "..." }'),
            PermanentBackendError,
            "disk is full",
        ),
        (
            RuntimeError("IO error: Read-only file system (os error 30)"),
            PermanentBackendError,
            "give this user",
        ),
        (RuntimeError("TooManyOpenFiles, source: Os { code: 24 }"), TransientBackendError, "raise the limit"),
        (RuntimeError("something else, code: 1000"), PermanentBackendError, "it was left as it is"),
    ],
)
def test_each_shortage_says_what_to_do(error: Exception, kind: type[Exception], words: str) -> None:
    found = folder_error(Path("reviews.index"), error)

    assert type(found) is kind
    assert words in str(found)
    assert "'reviews.index'" in str(found)
    assert "\n" not in str(found)


def test_an_index_that_could_not_be_created_can_be_created_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import qdrant_edge

    create = qdrant_edge.EdgeShard.create

    class Shard:
        """An engine that fails when it has made a part of its files."""

        @staticmethod
        def create(path: str, config: Any) -> Any:
            (Path(path) / "wal").mkdir(parents=True)
            raise RuntimeError("Can't init WAL: Os { code: 24, kind: TooManyOpenFiles }")

        load = qdrant_edge.EdgeShard.load

    search = EmbeddedSearch(tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr(qdrant_edge, "EdgeShard", Shard)
        with pytest.raises(TransientBackendError, match="too many files are open"):
            search.index_reviews(ROWS)
    assert qdrant_edge.EdgeShard.create is create

    assert search.index_reviews(ROWS).reviews == 20


def test_a_folder_that_cannot_be_looked_at_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)

    with pytest.raises(PermanentBackendError, match="give this user access to it, or name another folder"):
        EmbeddedSearch(tmp_path / "index")


def test_no_temporary_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(prefix: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", fail)

    with pytest.raises(PermanentBackendError, match="temporary folder"):
        EmbeddedSearch()
