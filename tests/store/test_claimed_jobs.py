"""Claims: of several that record a job for a key, the first one gets it, in every kind of store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import Store
from restaurant_llm_batch._store.folder import StoreFolder
from restaurant_llm_batch._store.overlay import OverlayStore
from restaurant_llm_batch._store.writer import CommitFuture

KEY, OTHER = b"k" * 16, b"o" * 16
KINDS: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: Store(path / "run.db"),
    "folder": lambda path: StoreFolder(_made(path / "store")),
}


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def claim(store: Any, key: bytes, job: str) -> None:
    committed = CommitFuture()
    store.claim_job(key, "x", job, committed)
    committed.result(timeout=30)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_claimed_once_until_its_job_is_deleted(kind: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path)
    claim(store, KEY, "first")
    claim(store, KEY, "second")
    claim(store, OTHER, "other")
    assert (store.job(KEY), store.job(OTHER)) == ("first", "other")
    deleted = CommitFuture()
    store.delete_job(KEY, "second", CommitFuture())
    store.delete_job(KEY, "first", deleted)
    deleted.result(timeout=30)
    claim(store, KEY, "third")
    assert store.job(KEY) == "third"
    store.close()


def test_of_many_threads_with_stores_of_their_own_each_key_goes_to_one(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "run.db") for _ in range(4)]
    keys = [bytes([number]) * 16 for number in range(40)]

    def claim_all(number: int) -> None:
        for key in keys:
            claim(stores[number], key, str(number))

    threads = [threading.Thread(target=claim_all, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = [[store.job(key) for key in keys] for store in stores]
    assert found.count(found[0]) == 4
    assert None not in found[0]
    for store in stores:
        store.close()


def test_a_simulated_run_claims_nothing(tmp_path: Path) -> None:
    store = OverlayStore(Store(tmp_path / "run.db"))
    claim(store, KEY, "first")
    assert store.job(KEY) is None
