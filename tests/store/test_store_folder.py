"""`StoreFolder`: each process writes its own log, all are found; what is cut off or damaged costs itself only."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.store_helpers import durably

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, StoreFolder, Strategy, errors
from restaurant_llm_batch._store import folder as folders
from restaurant_llm_batch._store import reply_log
from restaurant_llm_batch._store.disks import file_system_of, is_network, is_object_store
from restaurant_llm_batch._store.reply_log import LogReader, LogWriter, pack
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM

REPLY = LLMResponse("맛있는 집 \ud800", prompt_tokens=3, completion_tokens=2, model="m")


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the logs of others at every question."""
    monkeypatch.setattr(folders, "LOOK_SECONDS", 0.0)


def logs(path: Path) -> list[Path]:
    return sorted(path.glob("*.replies"))


def test_what_one_object_has_put_another_one_finds_while_both_write(tmp_path: Path) -> None:
    with StoreFolder(tmp_path / "night") as first, StoreFolder(tmp_path / "night") as second:
        durably(first.put, key(1), REPLY)
        durably(second.put, key(2), LLMResponse("two"))

        assert (first.get(key(1)), first.get(key(2)), first.get(key(3))) == (REPLY, LLMResponse("two"), None)
        assert (second.get(key(1)), second.get(key(2))) == (REPLY, LLMResponse("two"))
        assert len(logs(tmp_path / "night")) == 2
    assert (tmp_path / "night").stat().st_mode & 0o777 == 0o700
    assert {log.stat().st_mode & 0o777 for log in logs(tmp_path / "night")} == {0o600}


def test_a_folder_that_is_closed_is_opened_again_and_without_a_reply_it_writes_no_file(
    tmp_path: Path,
) -> None:
    folder = StoreFolder(tmp_path)
    folder.open()
    folder.close()
    assert logs(tmp_path) == []
    for number in range(3):
        durably(folder.put, key(number), LLMResponse(str(number)))
        folder.close()
        folder.close()

    assert [folder.get(key(number)) for number in range(3)] == [
        LLMResponse(str(number)) for number in range(3)
    ]
    assert StoreFolder(tmp_path).get(key(2)) == LLMResponse("2")


def test_a_discarded_reply_is_gone_for_all_whichever_log_is_read_first(tmp_path: Path) -> None:
    first, second = StoreFolder(tmp_path), StoreFolder(tmp_path)
    durably(first.put, key(1), REPLY)
    assert second.get(key(1)) == REPLY
    durably(second.discard, key(1))
    durably(second.discard, key(9))

    assert second.get(key(1)) is None
    for name in [path.name for path in logs(tmp_path)], [path.name for path in logs(tmp_path)][::-1]:
        third = StoreFolder(tmp_path)
        for log in name:
            third._readers[log] = LogReader(tmp_path / log)
            third._read(third._readers[log])
        assert third._known.replies == {}
    durably(first.put, key(1), LLMResponse("a better one"))
    assert StoreFolder(tmp_path).get(key(1)) == LLMResponse("a better one")


def test_a_job_is_known_to_all_until_it_has_ended_or_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = StoreFolder(tmp_path), StoreFolder(tmp_path)
    durably(first.record_job, key(1), "backend", "backend one")
    assert second.job(key(1)) == "backend one"
    durably(second.record_job, key(1), "backend", "backend two")
    assert first.job(key(1)) == "backend two"
    durably(second.delete_job, key(1), "backend two")
    assert first.job(key(1)) is None
    durably(first.record_job, key(2), "backend", "backend three")
    now = time()
    monkeypatch.setattr(folders, "time", lambda: now + 9 * 24 * 3600)
    assert StoreFolder(tmp_path).job(key(2)) is None


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8), st.integers(0, 500), st.binary(max_size=9))
def test_of_a_log_that_is_cut_or_damaged_anywhere_what_stands_before_is_read(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], at: int, garbage: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"cut-{os.urandom(6).hex()}"
    writer = LogWriter(path, syncs=False)
    offsets = writer.append([pack(1, body) for body in bodies])
    writer.close()
    whole = path.read_bytes()
    at = min(at, len(whole))
    path.write_bytes(whole[:at] + garbage)

    found = [entry.body for entry in LogReader(path).new_entries()]

    whole_ones = sum(offset + 5 + len(body) + 8 <= at for offset, body in zip(offsets, bodies, strict=True))
    assert found[:whole_ones] == bodies[:whole_ones]
    assert found == bodies[: len(found)]
    path.unlink()


def test_a_reader_goes_on_where_an_entry_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.replies"
    LogWriter(path, syncs=True).close()
    reader = LogReader(path)
    written = pack(1, b"first") + pack(2, b"second")

    seen = []
    for place in range(len(written)):
        with path.open("ab") as file:
            file.write(written[place : place + 1])
        seen += [(entry.kind, entry.body) for entry in reader.new_entries()]

    assert seen == [(1, b"first"), (2, b"second")]
    assert reader.read(len(reply_log.HEADER)) is not None
    assert reader.read(len(reply_log.HEADER) + 1) is None


def test_a_reply_that_was_damaged_since_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StoreFolder(tmp_path)
    durably(folder.put, key(1), REPLY)
    (log,) = logs(tmp_path)
    written = bytearray(log.read_bytes())
    written[-20] ^= 1
    log.write_bytes(written)

    assert folder.get(key(1)) is None
    assert "is damaged, and its call is made again" in caplog.text
    assert StoreFolder(tmp_path).get(key(1)) is None


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "odd.replies").write_bytes(b"something else")
    (tmp_path / "later.replies").write_bytes(reply_log.HEADER + pack(77, b"\x03abc") + pack(1, b""))

    assert StoreFolder(tmp_path).get(key(1)) is None


def test_a_full_disk_is_reported_and_leaves_no_half_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StoreFolder(tmp_path)
    durably(folder.put, key(1), REPLY)
    whole = os.write

    def full(file: int, data: Any) -> int:
        whole(file, bytes(data)[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(errors.StoreError, match="No space left on device; make room for it"):
        durably(folder.put, key(2), REPLY)
    monkeypatch.setattr(os, "write", whole)
    durably(folder.put, key(3), REPLY)

    found = StoreFolder(tmp_path)
    assert [found.get(key(number)) for number in (1, 2, 3)] == [REPLY, None, REPLY]


def test_without_threads_it_writes_in_the_thread_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    folder = StoreFolder(tmp_path)
    durably(folder.put, key(1), REPLY)
    folder.close()

    assert StoreFolder(tmp_path).get(key(1)) == REPLY


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a file", "is a file; name a folder"),
        ("missing/night", "does not exist; create it first"),
        ("", "must be the path of a folder"),
        (7, "must be the path of a folder"),
    ],
)
def test_what_is_no_folder_is_refused(tmp_path: Path, path: Any, message: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(errors.ConfigurationError, match=message):
        StoreFolder(tmp_path / path if path and path != 7 else path).open()


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / /mnt/shared rw shared:2 master:1 - nfs4 server:/export rw,vers=4.2
41 22 0:41 / /mnt/with\\040blank rw - cifs //server/share rw
42 40 8:2 / /mnt/shared/scratch rw - xfs /dev/sdb rw
43 22 0:43 / /data rw - fuse.s3fs s3fs rw
44 22 0:44 / /data rw - fuse.sshfs host: rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "system"),
    [
        ("/home/me/night", "ext4"),
        ("/mnt/shared", "nfs4"),
        ("/mnt/shared/night/a", "nfs4"),
        ("/mnt/shared-not", "ext4"),
        ("/mnt/with blank/x", "cifs"),
        ("/mnt/shared/scratch/night", "xfs"),
        ("/data/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_mount_that_holds_it(path: str, system: str) -> None:
    assert file_system_of(path, MOUNTS) == system
    assert is_network(system) == (system in ("nfs4", "cifs", "fuse.sshfs"))


def test_a_network_file_system_is_written_through_and_an_object_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    synced: list[int] = []
    monkeypatch.setattr(folders, "file_system_of", lambda path: "nfs4")
    monkeypatch.setattr(os, "fsync", synced.append)
    folder = StoreFolder(tmp_path)
    folder.open()
    durably(folder.put, key(1), REPLY)
    assert synced
    assert "is on nfs4: each group of replies is written through to it" in caplog.text
    assert file_system_of(tmp_path) != "nfs4"

    assert is_object_store("fuse.s3fs")
    monkeypatch.setattr(folders, "file_system_of", lambda path: "fuse.s3fs")
    with pytest.raises(errors.ConfigurationError, match=r"on fuse\.s3fs, an object store"):
        StoreFolder(tmp_path).open()


def ask(item: int) -> Flow[str]:
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": f"number {item}"},)))
    return reply.text


@pytest.mark.parametrize("strategy", [Strategy(), Strategy.stage(4), Strategy.threaded()], ids=str)
def test_a_run_pays_only_for_what_no_other_run_has_kept(tmp_path: Path, strategy: Strategy) -> None:
    def ran(items: range) -> int:
        llm = FakeLLM()
        with BatchRunner(llm=llm, strategy=strategy, store=StoreFolder(tmp_path)) as runner:
            assert len(runner.run(ask, items).results) == len(items)
        return llm.calls

    assert (ran(range(6)), ran(range(9)), ran(range(12))) == (6, 3, 3)


KILLED = """
import os, signal, sys
from restaurant_llm_batch import BatchRunner, StoreFolder
from restaurant_llm_batch.testing import FakeLLM
from tests.store.test_store_folder import ask
done = 0
def observe(event):
    global done
    done += type(event).__name__ == "ItemEnded"
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
BatchRunner(llm=FakeLLM(), store=StoreFolder(sys.argv[1]), observers=[observe]).run(ask, range(20))
"""


@pytest.mark.slow
def test_after_kill_9_a_run_pays_only_for_what_was_not_finished(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL

    llm = FakeLLM()
    BatchRunner(llm=llm, store=StoreFolder(tmp_path)).run(ask, range(20))

    assert llm.calls == 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_and_a_pickled_copy_write_logs_of_their_own(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path)
    durably(folder.put, key(1), REPLY)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            assert folder.get(key(1)) == REPLY
            durably(folder.put, key(2), REPLY)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    copy = pickle.loads(pickle.dumps(folder))
    durably(copy.put, key(3), REPLY)

    assert [folder.get(key(number)) for number in (1, 2, 3)] == [REPLY] * 3
    assert len(logs(tmp_path)) == 3
