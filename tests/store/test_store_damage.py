"""A damaged store: no wrong answer, no failure that stays, and nothing whole is lost."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support.store_child import reply_of
from tests.support.store_helpers import REPLY, durably, fill, key

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse
from restaurant_llm_batch._store import repair
from restaurant_llm_batch._store.rows import FORMAT, SCHEMAS
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch.errors import ConfigurationError, StoreError
from restaurant_llm_batch.steps import Flow, complete

ROWS, JOBS = 20, 10
PAGE = 4096


def write(path: Path, rows: int = ROWS) -> bytes:
    with Store(path) as store:
        fill(store, range(rows))
        for number in range(JOBS):
            durably(store.record_job, key(rows + number), "runpod", f"job-{number}")
    return path.read_bytes()


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as other:
        assert other.execute(statement, values).rowcount
        other.commit()


def ask_all(path: Path, rows: int = ROWS) -> int:
    """Look for every reply and job, put what is missing, and return how many were missing."""
    missing = 0
    with Store(path, lock_timeout=5) as store:
        for number in range(rows):
            found = store.get(key(number))
            assert found in (None, reply_of("test", number))
            if found is None:
                missing += 1
                durably(store.put, key(number), reply_of("test", number))
        for number in range(JOBS):
            assert store.job(key(rows + number)) in (None, f"job-{number}")
    return missing


def damaged(whole: bytes, random: Random) -> bytes:
    """Flip 1 to 40 bits anywhere, a few in the headers of pages, or fill pages with rubbish."""
    content, pages = bytearray(whole), len(whole) // PAGE
    match random.randrange(4):
        case 0:
            places = [random.randrange(len(content)) for _ in range(random.randint(1, 40))]
        case 1:
            places = [random.randrange(len(content))]
        case 2:
            places = [PAGE * random.randrange(1, pages) + random.randrange(60) for _ in range(5)]
        case _:
            places = []
            at = PAGE * random.randrange(1, pages)
            content[at : at + PAGE] = random.choice([bytes(PAGE), random.randbytes(PAGE), whole[-PAGE:]])
    for place in places:
        content[place] ^= 1 << random.randrange(8)
    return bytes(content)


@pytest.mark.hardening(small=24, full=10_000)
def test_flipped_bits_are_never_a_wrong_answer_nor_a_failure_that_stays(path: Path, trials: int) -> None:
    whole = write(path)
    for seed in range(trials):
        for file in path.parent.iterdir():
            file.unlink()
        content = damaged(whole, Random(seed))
        path.write_bytes(content)
        try:
            ask_all(path)
        except ConfigurationError:
            assert path.read_bytes() == content, seed
            continue
        if ask_all(path):  # a page that was broken without a sign may have taken another row with it
            assert ask_all(path) == 0, seed


class Echo:
    """Answers with the question."""

    fingerprint = "echo"

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        self.calls += 1
        return LLMResponse(f"answer {request.messages[0]['content']}")


def ask(item: int) -> Flow[str]:
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": str(item)},)))
    return reply.text


@pytest.mark.parametrize("where", ["text", "brace"])
def test_a_reply_with_a_flipped_bit_is_asked_for_again(path: Path, where: str) -> None:
    def run() -> int:
        model = Echo()
        with BatchRunner(llm=model, store=path) as runner:
            assert runner.run(ask, range(9)).results == [f"answer {number}" for number in range(9)]
        return model.calls

    assert run() == 9
    content = bytearray(path.read_bytes())
    place = content.index(b"answer 7")
    content[place if where == "text" else content.rindex(b"{", 0, place)] ^= 0x20
    path.write_bytes(content)

    assert [run(), run()] == [1, 0]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("reply", b"{}"),
        ("reply", "text"),
        ("reply", 7),
        ("reply", b"[" * 100_000),
        ("reply", b'{"text": 5}'),
        ("reply", b"\xff\xfe"),
        ("proof", None),
        ("proof", b""),
        ("proof", 1.5),
        ("proof", "8 signs!"),
    ],
)
def test_a_row_that_does_not_verify_is_discarded_and_counted(path: Path, column: str, value: object) -> None:
    write(path)
    change(path, f"UPDATE replies SET {column} = ? WHERE key = ?", value, key(3))

    with Store(path) as store:
        assert store.get(key(3)) is None
        assert store.get(key(4)) == reply_of("test", 4)
        store.close()  # what is discarded is gone from the file
        stats = store.stats()
        assert (stats.entries, stats.damaged) == (ROWS - 1, 1)


def test_rows_that_changed_their_keys_are_not_answers_to_other_questions(path: Path) -> None:
    write(path)
    for number, other in ((1, b"x" * 16), (2, key(1)), (1, key(2))):
        change(path, "UPDATE replies SET key = ? WHERE id = ?", other, number + 1)

    assert ask_all(path) == 2
    assert ask_all(path) == 0


def test_an_index_that_leads_to_another_row_is_built_anew_and_nothing_whole_is_lost(path: Path) -> None:
    content = bytearray(write(path))
    content[content.index(key(5) + b"\x06") + 16] = 7  # in the index, a row's id follows its key
    path.write_bytes(content)

    with Store(path) as store:
        assert store.get(key(5)) is None
        store.close()
        assert [store.get(key(number)) for number in range(ROWS)] == [
            reply_of("test", number) for number in range(ROWS)
        ]
        assert store.verify().ok


def test_a_job_that_does_not_verify_is_not_resumed(path: Path) -> None:
    write(path)
    change(path, "UPDATE jobs SET job_id = 'job-7' WHERE key = ?", key(ROWS))
    change(path, "UPDATE jobs SET backend = 'other' WHERE key = ?", key(ROWS + 1))
    change(path, "UPDATE jobs SET proof = NULL WHERE key = ?", key(ROWS + 2))

    with Store(path) as store:
        assert [store.job(key(ROWS + number)) for number in range(4)] == [None, None, None, "job-3"]
        store.close()
        assert store.stats().jobs == JOBS - 3


@pytest.mark.parametrize("rubbish", [b"\xff", b"\x00"])
def test_a_store_with_pages_of_rubbish_keeps_what_is_whole_and_is_written_again(
    path: Path, rubbish: bytes
) -> None:
    whole = bytearray(write(path, 300))
    for page in range(10, 20):
        whole[PAGE * page : PAGE * (page + 1)] = rubbish * PAGE
    path.write_bytes(whole)

    missing = ask_all(path, 300)

    assert 0 < missing < 100
    assert ask_all(path, 300) == 0
    assert (path.parent / "run.db.damaged").read_bytes()[PAGE:] == whole[PAGE:]
    assert sorted(file.name for file in path.parent.iterdir()) == ["run.db", "run.db.damaged"]


def test_damage_is_logged_once_with_its_number(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path)
    change(path, "UPDATE replies SET reply = CAST('{}' AS BLOB) WHERE id <= 9")

    with caplog.at_level(logging.WARNING):
        assert ask_all(path) == 9

    first, last = [record.getMessage().partition(str(path))[2] for record in caplog.records]
    assert first.startswith(" is damaged (a reply does not match its proof): damaged rows are discarded")
    assert last == ": 9 damaged rows in all were discarded"


def test_what_another_process_writes_during_a_repair_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(write(path, 300))
    content[PAGE * 10 : PAGE * 11] = b"\xff" * PAGE
    path.write_bytes(content)
    overwrite = repair._overwrite
    interrupted: list[int] = []

    def write_in_between(*arguments: Any) -> None:
        if not interrupted:
            interrupted.append(1)
            with Store(path) as other:
                durably(other.put, key(999), REPLY)
        overwrite(*arguments)

    monkeypatch.setattr(repair, "_overwrite", write_in_between)

    assert ask_all(path, 300)
    with Store(path) as store:
        assert store.get(key(999)) == REPLY
        assert store.verify().ok
    assert len(list(path.parent.glob("*.damaged*"))) == 1


def test_a_store_that_cannot_be_repaired_fails_with_its_name_and_stays_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(write(path, 300))
    content[PAGE * 4 :] = b"\xff" * (len(content) - PAGE * 4)
    path.write_bytes(content)

    def no_room(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repair, "_copy", no_room)
    with Store(path) as store, pytest.raises(StoreError, match=r"run\.db is damaged.*restore a copy"):
        for number in range(300):
            if store.get(key(number)) is None:
                durably(store.put, key(number), REPLY)

    assert path.read_bytes()[PAGE:] == content[PAGE:]
    assert [file.name for file in path.parent.iterdir()] == ["run.db"]


def make_old(path: Path) -> None:
    """Turn a store into one of format 1."""
    with closing(sqlite3.connect(path)) as other:
        for table, statement in SCHEMAS[1].items():
            columns = "id, key, at, reply" if table == "replies" else "key, at, backend, job_id"
            other.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            other.execute(statement)
            other.execute(f"INSERT INTO {table} SELECT {columns} FROM old_{table}")
            other.execute(f"DROP TABLE old_{table}")
        other.execute("PRAGMA user_version = 1")
        other.commit()


def test_a_store_of_format_1_loses_nothing_and_gets_its_proofs(path: Path) -> None:
    write(path)
    make_old(path)

    assert ask_all(path) == 0
    with Store(path) as store:
        assert [store.job(key(ROWS + number)) for number in range(JOBS)] == [f"job-{n}" for n in range(JOBS)]
        assert store.verify() == repair.StoreCheck(ROWS, 0, JOBS, 0)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    change(path, 'UPDATE replies SET reply = CAST(\'{"text": "wrong"}\' AS BLOB) WHERE id = 4')
    assert ask_all(path) == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize("reply", [b"nonsense", b'{"text": 5}', b"[" * 100_000, b"\xff", "text", 7])
def test_an_unreadable_row_of_format_1_is_asked_for_again(path: Path, reply: object) -> None:
    write(path)
    make_old(path)
    change(path, "UPDATE replies SET reply = ? WHERE id = 4", reply)

    assert [ask_all(path), ask_all(path)] == [1, 0]


def test_a_check_counts_what_is_whole_and_what_is_not(path: Path) -> None:
    write(path)
    with Store(path) as store:
        assert store.verify() == repair.StoreCheck(ROWS, 0, JOBS, 0, ())
        assert store.verify().advice.startswith("nothing needs to be done")
    change(path, "UPDATE replies SET reply = CAST('{}' AS BLOB) WHERE id <= 3")
    change(path, "UPDATE jobs SET job_id = 'other' WHERE key = ?", key(ROWS))
    before = path.read_bytes()
    with Store(path) as store:
        check = store.verify()

        assert check == repair.StoreCheck(ROWS - 3, 3, JOBS - 1, 1, ())
        assert not check.ok
        assert "discards it and makes its call again" in check.advice
        assert store.stats().damaged == 0
    assert path.read_bytes() == before


def test_a_check_of_broken_pages_says_what_sqlite_finds(path: Path) -> None:
    content = bytearray(write(path, 300))
    content[PAGE * 10 : PAGE * 12] = b"\xff" * 2 * PAGE
    path.write_bytes(content)
    with Store(path) as store:
        check = store.verify()

    assert check.replies + check.damaged == 300
    assert 0 < check.damaged < 100
    assert check.problems
    assert ".damaged" in check.advice


def test_a_date_that_makes_no_sense_harms_no_statistics(path: Path) -> None:
    write(path)
    change(path, "UPDATE replies SET at = 1e300")

    with Store(path) as store:
        assert (store.stats().oldest, store.stats().newest) == (None, None)
        assert store.get(key(1)) == reply_of("test", 1)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda content: content.replace(b"SQLite format 3", b"SQLite_format 3"),
        lambda content: content.replace(b"CREATE TABLE replies (id", b"CREATE TABLE replies (ix"),
        lambda content: content.replace(b"CREATE TABLE jobs", b"CREATE \x1b[2J jobs"),
        lambda content: content.replace(b"CREATE TABLE replies", b"CREATE TABLE\xccreplies"),  # no UTF-8
    ],
)
def test_a_broken_header_is_refused_with_what_to_do_and_left(
    path: Path, break_it: Callable[[bytes], bytes]
) -> None:
    content = break_it(write(path))
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"(?s)left as it is.*a copy") as caught:
        Store(path).open()

    assert path.read_bytes() == content
    assert str(caught.value).isprintable()


def test_statistics_of_a_store_with_broken_pages_are_those_of_what_is_whole(path: Path) -> None:
    content = bytearray(write(path, 300))
    content[PAGE * 3 : PAGE * 20] = b"\xff" * 17 * PAGE
    path.write_bytes(content)

    with Store(path) as store:
        assert 0 < store.stats().entries <= 300
        assert store.verify().ok
