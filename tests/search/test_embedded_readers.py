"""`EmbeddedSearch(path, read_only=True)`: many readers of one folder, in one process and in several."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import PATIENCE
from tests.support.reviews import review

from restaurant_llm_batch import BatchRunner, Strategy, SummarizeAspects
from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.search.embedded import _engine, _readers
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.testing import FakeLLM

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="without flock, nobody is kept out")

REVIEWS = [review(1, 1, "맛있어요"), review(1, 2, "친절해요"), review("b", 3, "비싸요")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index that nobody has open."""
    path = tmp_path / "index"
    with EmbeddedSearch(path) as search:
        search.index_reviews(REVIEWS)
    return path


def contents(folder: Path) -> dict[str, str]:
    """Return the digests of the files of an index, views aside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "shard" / "segments").rglob("*"))
        if path.is_file()
    }


def found(search: EmbeddedSearch) -> list[Any]:
    return [hit.review_id for hit in search.search(SearchQuery(1, "맛", limit=5))]


@pytest.mark.slow
def test_several_objects_read_a_folder_at_once_and_find_what_one_alone_finds(folder: Path) -> None:
    with EmbeddedSearch(folder) as search:
        expected = found(search), search.count(), search.restaurant_ids()
    before = contents(folder)

    with EmbeddedSearch(folder, read_only=True) as one, EmbeddedSearch(folder, read_only=True) as other:
        for reader in (one, other, one):
            assert (found(reader), reader.count(), reader.restaurant_ids()) == expected
            others = reader.search(SearchQuery("b", "맛", scope="others"))
            assert {hit.restaurant_id for hit in others} == {1}
        assert contents(folder) == before

    assert contents(folder) == before
    assert not any((folder / "readers").iterdir())


@pytest.mark.slow
def test_a_reader_works_in_a_run(folder: Path) -> None:
    with EmbeddedSearch(folder, read_only=True) as search:
        runner = BatchRunner(llm=FakeLLM(), search=search, strategy=Strategy.stage(4))
        assert len(runner.run(SummarizeAspects(), [1, "b"]).results) == 2


@pytest.mark.slow
def test_nothing_is_written_through_a_reader(folder: Path) -> None:
    with EmbeddedSearch(folder, read_only=True) as search:
        for write in (
            lambda: search.index_reviews([review(1, 9, "좋아요")]),
            lambda: search.delete_reviews(1, [1]),
            lambda: search.delete_restaurant(1),
        ):
            with pytest.raises(ConfigurationError, match=r"read only: close all readers"):
                write()
        assert search.count() == 3
        with pytest.raises(ConfigurationError, match="uploads=True needs a search that is written to"):
            batch_router(BatchRunner(llm=FakeLLM(), search=search), uploads=True)
    assert "read_only=True" in repr(search)
    assert (search.read_only, search.path) == (True, folder)


def test_who_writes_waits_until_all_readers_are_closed_and_they_read_the_new_reviews_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_engine, "READER_SECONDS", 0.05)
    writer = EmbeddedSearch(folder)
    with EmbeddedSearch(folder, read_only=True) as reader:
        assert reader.count() == 3
        with pytest.raises(PermanentBackendError, match=r"in use by another .*read_only=True"):
            writer.index_reviews([review(1, 4, "또 올게요")])
        assert reader.count() == 3
        reader.close()
        writer.index_reviews([review(1, 4, "또 올게요")])
        with pytest.raises(PermanentBackendError, match="in use by another"):
            reader.count()
        writer.close()
        assert reader.count() == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"read_only": True}, "needs the path of an index"),
        ({"path": "x", "read_only": 1}, "must be True or False"),
        ({"path": "x", "read_only": None}, "must be True or False"),
    ],
)
def test_a_mistake_is_said_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EmbeddedSearch(**arguments)


def test_a_folder_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no index at path"):
        EmbeddedSearch(tmp_path / "missing", read_only=True).count()
    assert not (tmp_path / "missing").exists()


@pytest.mark.slow
def test_without_links_a_reader_has_copies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    made = tmp_path / "copies"
    made.mkdir()
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(_readers, "temporary_folder", lambda: made)
    with EmbeddedSearch(folder, read_only=True) as search:
        assert search.count() == 3
        assert any(made.rglob("page_*.dat"))
    assert not made.exists()


@pytest.mark.slow
def test_what_killed_readers_have_left_is_removed_by_the_next_one(folder: Path) -> None:
    left = folder / "readers" / "view-killed"
    left.mkdir(parents=True)
    (left / "page_0.dat").write_bytes(b"x")
    with EmbeddedSearch(folder, read_only=True) as search:
        assert search.count() == 3
        assert not left.exists()


def _read(folder: Path, told: Any) -> None:
    search = EmbeddedSearch(folder, read_only=True)
    told.send((found(search), search.count()))
    signal.pause()


@pytest.fixture
def readers(folder: Path) -> Iterator[list[Any]]:
    """Three processes that read the folder, each with what it has found."""
    spawn = multiprocessing.get_context("spawn")
    started = []
    for _ in range(3):
        heard, told = spawn.Pipe()
        process = spawn.Process(target=_read, args=(folder, told))
        process.start()
        started.append((process, heard))
    yield [(process, heard.recv()) for process, heard in started if heard.poll(PATIENCE)]
    for process, _ in started:
        process.kill()
        process.join()


@pytest.mark.slow
def test_processes_read_at_once_and_one_that_is_killed_keeps_nobody_out(
    folder: Path, readers: list[Any]
) -> None:
    with EmbeddedSearch(folder, read_only=True) as search:
        expected = found(search), search.count()
        assert [what for _, what in readers] == [expected] * 3
    writer = EmbeddedSearch(folder)
    with pytest.raises(PermanentBackendError, match="in use by another"):
        writer.index_reviews([review(1, 4, "또 올게요")])
    for process, _ in readers:
        process.kill()
        process.join()
    writer.index_reviews([review(1, 4, "또 올게요")])
    assert writer.count() == 4
    writer.close()


def _write_and_die(folder: Path) -> None:
    search = EmbeddedSearch(folder)
    search._shard.flush = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    search.index_reviews([review(1, number, f"맛있어요 {number}") for number in range(100, 120)])


@pytest.mark.slow
def test_what_a_killed_writer_has_not_flushed_is_read(folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(folder,))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    with EmbeddedSearch(folder, read_only=True) as search:
        assert search.count() == 23


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_reader_made_before_a_fork_is_opened_by_each_child(folder: Path) -> None:
    search = EmbeddedSearch(folder, read_only=True)
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            os._exit(0 if search.count() == 3 else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert search.count() == 3
    search.close()
