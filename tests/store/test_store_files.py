"""Files that are no stores, or damaged, or locked: said clearly, and left as they are."""

from __future__ import annotations

import os
import pickle
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.store_helpers import REPLY, durably, fill, forks, in_child, key

from restaurant_llm_batch import BatchRunner, LLMRequest, Strategy
from restaurant_llm_batch._store.rows import FORMAT
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch.errors import ConfigurationError, StoreError
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM


def refused(path: Path, wait: float = 5) -> str:
    """Return what is said about a file, which is left with its neighbours as it was."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    store = Store(path, lock_timeout=wait)
    with pytest.raises(ConfigurationError) as caught:
        store.open()
    with pytest.raises(ConfigurationError):
        store.get(key(1))
    with pytest.raises(ConfigurationError):
        durably(store.put, key(1), REPLY)
    store.close()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before
    assert path.name in str(caught.value)
    assert "use the" in str(caught.value) or "create" in str(caught.value)
    return str(caught.value)


def written(path: Path, entries: int = 300) -> bytes:
    with Store(path) as store:
        fill(store, range(entries))
    return path.read_bytes()


@pytest.mark.parametrize("content", [b"id,text\n" * 1000, b"x", b"SQLite format 3\x00", b"\x00" * 8192])
def test_a_file_that_is_no_database_is_refused_and_left(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    assert "not a store" in refused(path)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_something_else_is_refused_and_left(path: Path, journal: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()

    assert "another program" in refused(path)


def test_a_database_that_something_else_has_in_use_is_refused_and_left(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match="another program"):
            Store(path).open()

        assert path.read_bytes() == before
        assert other.execute("SELECT count(*) FROM recipes").fetchone() == (0,)


@pytest.mark.parametrize("left", [100, 4096, 4097, 40_000])
def test_a_file_that_was_cut_off_is_refused_and_left(path: Path, left: int) -> None:
    whole = written(path)
    path.write_bytes(whole[:left])

    assert ("damaged" if left >= 512 else "nor any SQLite file") in refused(path)


def test_a_file_that_lost_a_table_is_refused_and_left(path: Path) -> None:
    written(path, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE jobs")
        other.commit()

    assert "damaged" in refused(path)


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_a_store_of_another_format_is_refused_and_left(path: Path, version: int) -> None:
    written(path, 3)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {version}")

    assert f"has format {version}" in refused(path)


def test_a_store_of_another_format_that_was_killed_is_left_too(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    with Store(path) as store:
        fill(store, range(3))
        with closing(sqlite3.connect(path)) as other:
            other.execute(f"PRAGMA user_version = {FORMAT + 1}")
        for file in path.parent.glob("run.db*"):
            (folder / file.name).write_bytes(file.read_bytes())
    copy = folder / "run.db"
    before = {name: (folder / name).read_bytes() for name in ("run.db", "run.db-wal")}
    assert before["run.db-wal"]

    with pytest.raises(ConfigurationError, match="format"):
        Store(copy).open()
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_file_that_is_locked_is_refused_after_a_while(path: Path) -> None:
    written(path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = Store(path, lock_timeout=0.05)
        with pytest.raises(
            ConfigurationError, match=r"run\.db is locked by another program, for more than 0\.05"
        ):
            store.open()
        other.execute("ROLLBACK")

        assert store.get(key(1)) is not None  # and is fine once it no longer is
        store.close()


def test_a_lock_that_comes_later_fails_the_write_and_not_the_store(path: Path) -> None:
    with (
        Store(path, lock_timeout=0.05) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        durably(store.put, key(1), REPLY)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"run\.db is locked"):
            durably(store.put, key(2), REPLY)
        assert store.get(key(1)) == REPLY
        other.execute("ROLLBACK")
        durably(store.put, key(2), REPLY)

        assert store.get(key(2)) == REPLY


def test_a_missing_folder_is_not_made(path: Path) -> None:
    missing = path.parent / "missing" / "run.db"
    with pytest.raises(ConfigurationError, match="does not exist; create it"):
        Store(missing).open()

    assert not missing.parent.exists()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got the folder"):
        Store(tmp_path).open()


@pytest.mark.parametrize("nonsense", ["", ":memory:", None, 7, b"run.db"])
def test_what_is_no_path_is_refused_at_once(nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match="store must be the path of a file"):
        Store(nonsense)


MODES = {  # of the file, of the one that SQLite keeps next to it, and of the folder
    "run.db": (0o444, 0o666, 0o777),
    "run.db-shm": (0o666, 0o444, 0o777),
    "folder": (0o666, 0o666, 0o555),
}


@forks
@pytest.mark.parametrize("what", MODES)
def test_what_cannot_be_written_is_refused_and_left(what: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "folder" / "run.db"
        path.parent.mkdir()
        before = written(path, 3)
        kept = [path.with_name("run.db-shm"), path.with_name("run.db-wal")]
        if what == "run.db-shm":
            for one in kept:  # left by a reader that could not tidy up
                one.touch()
        for file, mode in zip(
            (path, *kept, path.parent), (*MODES[what][:2], 0o666, MODES[what][2]), strict=True
        ):
            if file.exists():
                file.chmod(mode)
        Path(root).chmod(0o755)
        said = in_child(lambda: refused_to_others(path))
        path.parent.chmod(0o755)

        assert "run.db cannot be written" in said
        assert (
            f"this user may not write to {path.parent if what == 'folder' else path.with_name(what)}; "
            in said
        )
        assert path.read_bytes() == before


@forks
def test_what_may_not_be_read_is_said_to_be_unreadable() -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "run.db"
        written(path, 3)
        path.chmod(0o000)
        Path(root).chmod(0o755)
        said = in_child(lambda: refused_to_others(path))

        assert said.startswith(f"store {path} cannot be read: this user may not read it; ")


def refused_to_others(path: Path) -> str:
    """Return what is said to a user who does not own the store."""
    if os.geteuid() == 0:  # may write anywhere
        os.setuid(65534)
    try:
        Store(path).open()
    except ConfigurationError as error:
        return str(error)
    return "was opened"


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with Store(path) as store:
        durably(store.put, key(1), REPLY)

        assert store.get(key(1)) == REPLY


def test_a_file_whose_making_was_cut_short_becomes_a_store(path: Path) -> None:
    with closing(sqlite3.connect(path)) as begun:
        begun.execute("PRAGMA journal_mode = wal")
    assert path.stat().st_size

    with Store(path) as store:
        durably(store.put, key(1), REPLY)

        assert store.get(key(1)) == REPLY


def test_a_path_may_hold_any_signs(tmp_path: Path) -> None:
    with Store(tmp_path / "밤 ?x=1#%41.db") as store:
        durably(store.put, key(1), REPLY)

        assert (tmp_path / "밤 ?x=1#%41.db").exists()


def test_the_path_is_that_of_the_folder_the_store_was_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("run.db")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    store.open()
    store.close()

    assert (tmp_path / "run.db").exists()


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be readable by all, as most systems do."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


@pytest.mark.usefixtures("open_umask")
def test_only_the_owner_may_read_a_new_store_from_the_first_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def look(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        seen.append(modes(path.parent))
        return connect(*arguments, **settings)

    monkeypatch.setattr(sqlite3, "connect", look)
    with Store(path) as store:
        durably(store.put, key(1), REPLY)
        assert store.get(key(1)) == REPLY
        assert modes(path.parent) == dict.fromkeys(("run.db", "run.db-wal", "run.db-shm"), 0o600)
    assert seen
    assert {mode for found in seen for mode in found.values()} == {0o600}
    assert modes(path.parent) == {"run.db": 0o600}


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("mode", [0o640, 0o660, 0o644])
def test_a_file_that_exists_keeps_its_mode(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    with Store(path) as store:
        durably(store.put, key(1), REPLY)
        assert set(modes(path.parent).values()) == {mode}
    with Store(path) as store:
        assert store.get(key(1)) == REPLY
    assert modes(path.parent) == {"run.db": mode}


@pytest.mark.usefixtures("open_umask")
def test_the_copy_of_a_damaged_store_is_for_its_owner_only(path: Path) -> None:
    content = bytearray(written(path))
    path.write_bytes(content[: 4096 * 10] + b"\xff" * 4096 * 9 + content[4096 * 19 :])
    with Store(path) as store:
        for number in range(300):
            store.get(key(number))

    assert modes(path.parent) == {"run.db": 0o600, "run.db.damaged": 0o600}


@pytest.mark.usefixtures("open_umask")
def test_a_file_system_without_links_makes_private_stores_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with Store(path) as store:
        durably(store.put, key(1), REPLY)

    assert modes(path.parent) == {"run.db": 0o600}


def other_store(path: Path) -> None:
    other = path.with_name("other.db")
    written(other, 3)
    other.replace(path)


@pytest.mark.parametrize(
    "lose",
    [
        Path.unlink,
        lambda path: path.rename(path.with_name("moved.db")),
        other_store,
        lambda path: Path(f"{path}-wal").unlink(),
        lambda path: (path.unlink(), path.touch()),
    ],
    ids=["deleted", "moved", "replaced by another", "without its log", "replaced by an empty file"],
)
def test_a_store_that_is_lost_while_it_is_open_is_an_error_at_the_next_write(
    path: Path, lose: Callable[[Path], object]
) -> None:
    with Store(path) as store:
        durably(store.put, key(1), REPLY)
        lose(path)
        with pytest.raises(StoreError, match=r"run\.db was deleted, moved or replaced while it was open"):
            durably(store.put, key(2), REPLY)

        durably(store.put, key(3), REPLY)  # in the file that is there now
        assert store.get(key(3)) == REPLY
    with Store(path) as again:
        assert again.get(key(3)) == REPLY


def test_a_run_whose_store_is_lost_stops_and_says_so(path: Path) -> None:
    def ask(item: int) -> Flow[None]:
        if item == 5:
            path.unlink()
        yield from complete(LLMRequest("ask", ({"role": "user", "content": str(item)},)))

    with BatchRunner(llm=FakeLLM(), store=path, strategy=Strategy.stage(1)) as runner:
        report = runner.run(ask, range(20))

    assert report.stats.stopped_because is not None
    assert "was deleted, moved or replaced while it was open" in report.stats.stopped_because
    assert report.stats.calls == {"llm": 6}


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(StoreError("run.db is full")))

    assert isinstance(error, StoreError)
    assert str(error) == "run.db is full"
