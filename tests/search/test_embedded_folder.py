"""Where `EmbeddedSearch` keeps its reviews: folders kept, released and never spoilt."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import qdrant_edge
from tests.support.reviews import review

from restaurant_llm_batch import BatchRunner, Strategy, SummarizeAspects
from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError
from restaurant_llm_batch.models import Review, SearchQuery
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder
from restaurant_llm_batch.testing import FakeLLM

WAIT = 30
"""Seconds after which a thread that should have been released counts as stuck."""


def test_a_folder_keeps_its_reviews(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "index"
    with EmbeddedSearch(folder) as first:
        first.index_reviews([review(1, 1, "맛있어요"), review("b", 2, "친절해요")])
        before = first.search(SearchQuery(1, "맛"))

    with EmbeddedSearch(str(folder)) as second:
        assert second.search(SearchQuery(1, "맛")) == before
        assert second.restaurant_ids() == [1, "b"]
        assert second.count() == 2


def test_a_folder_of_before_there_were_categories_opens_and_takes_them(tmp_path: Path) -> None:
    with EmbeddedSearch(tmp_path) as search:
        search.index_reviews([review(1, 1, "맛있어요"), review(2, 2, "맛있어요")])
    with closing(qdrant_edge.EdgeShard.load(str(tmp_path / "shard"))) as shard:
        shard.update(qdrant_edge.UpdateOperation.delete_field_index("category"))
        assert set(shard.info().payload_schema) == {"restaurant", "restaurant_id"}

    with EmbeddedSearch(tmp_path) as search:
        search.index_reviews([Review("맛있어요", 3, 3, category=7)])
        anyone = search.search(SearchQuery(1, "맛", scope="others"))
        kind = search.search(SearchQuery(1, "맛", scope="others", category="7"))

    assert [(hit.restaurant_id, hit.review_id) for hit in anyone] == [(2, 2), (3, 3)]
    assert [(hit.restaurant_id, hit.review_id) for hit in kind] == [(3, 3)]
    with closing(qdrant_edge.EdgeShard.load(str(tmp_path / "shard"))) as shard:
        assert set(shard.info().payload_schema) == {"restaurant", "restaurant_id", "category"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("before", [None, 4])
def test_a_folder_opens_with_searches_in_the_calling_thread_whatever_it_had_before(
    tmp_path: Path, before: int | None
) -> None:
    config_file = tmp_path / "shard" / "edge_config.json"
    with EmbeddedSearch(tmp_path) as search:
        search.index_reviews([review(1, 1, "맛있어요"), review(1, 2, "친절해요"), review(2, 1, "비싸요")])
        hits = search.search(SearchQuery(1, "맛"))
    config = json.loads(config_file.read_text())
    assert config.pop("max_search_threads") == 1
    config_file.write_text(json.dumps(config | ({} if before is None else {"max_search_threads": before})))

    with EmbeddedSearch(tmp_path) as search:
        assert search.search(SearchQuery(1, "맛")) == hits
        assert search.count() == 3
    now = json.loads(config_file.read_text())
    assert now["max_search_threads"] == 1
    assert {key: now[key] for key in config} == config


def test_a_closed_folder_is_opened_again_by_the_next_use(tmp_path: Path) -> None:
    search = EmbeddedSearch(tmp_path)
    search.index_reviews([review(1, 1, "맛있어요")])
    search.close()
    search.close()

    assert len(search.search(SearchQuery(1, "맛"))) == 1
    search.close()


def test_closing_keeps_what_is_in_memory(search: EmbeddedSearch) -> None:
    with search:
        pass

    assert search.count() == 4


def test_another_embedder_is_refused_with_advice(tmp_path: Path) -> None:
    with EmbeddedSearch(tmp_path) as search:
        search.index_reviews([review(1, 1, "맛있어요")])

    with pytest.raises(ConfigurationError, match=r"'hashing-v1-384', not 'hashing-v1-64': pass that"):
        EmbeddedSearch(tmp_path, embedder=HashingEmbedder(64))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(ConfigurationError, match="holds other files: name a new or empty folder"):
        EmbeddedSearch(tmp_path)
    with pytest.raises(ConfigurationError, match="is a file: name a folder"):
        EmbeddedSearch(tmp_path / "thesis.txt")


def test_a_folder_in_use_is_a_clear_error_and_stays_usable(tmp_path: Path) -> None:
    first = EmbeddedSearch(tmp_path)
    first.index_reviews([review(1, 1, "맛있어요")])

    with pytest.raises(PermanentBackendError, match="is in use by another process") as caught:
        EmbeddedSearch(tmp_path).count()

    assert caught.value.backend == "embedded"
    assert "QdrantSearch(url=...)" in str(caught.value)
    assert first.count() == 1
    first.close()
    assert EmbeddedSearch(tmp_path).count() == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda search: search.search(SearchQuery(1, "맛")),
        lambda search: search.search(SearchQuery(1, " ")),
        lambda search: search.search_many([]),
        lambda search: search.count(),
        lambda search: search.restaurant_ids(),
    ],
    ids=["search", "blank search", "no search", "count", "restaurant_ids"],
)
def test_reading_where_no_folder_is_says_how_to_make_it_and_makes_nothing(
    read: Callable[[EmbeddedSearch], object], tmp_path: Path
) -> None:
    folder = tmp_path / "my reviews" / "indx"

    with EmbeddedSearch(folder) as search, pytest.raises(ConfigurationError) as caught:
        read(search)

    assert str(caught.value) == (
        f"there is no index at path '{folder}': index reviews into it first, with "
        f"EmbeddedSearch('{folder}').index_reviews(...) or "
        f"`restaurant-llm-batch index FILE --into '{folder}'`"
    )
    assert not list(tmp_path.iterdir())


def test_indexing_makes_the_folder_that_reading_missed(tmp_path: Path) -> None:
    with EmbeddedSearch(tmp_path / "index") as search:
        with pytest.raises(ConfigurationError, match="there is no index at path"):
            search.count()
        search.index_reviews([])
        assert search.count() == 0
        search.index_reviews([review(1, 1, "맛있어요")])
        assert len(search.search(SearchQuery(1, "맛"))) == 1


def test_a_damaged_folder_is_a_clear_error_and_is_left_alone(tmp_path: Path) -> None:
    with EmbeddedSearch(tmp_path) as search:
        search.index_reviews([review(1, 1, "맛있어요")])
    for file in tmp_path.rglob("segment.json"):
        file.write_text("{}")
    files = sorted(tmp_path.rglob("*"))

    with pytest.raises(PermanentBackendError, match="cannot be opened; it was left as it is"):
        EmbeddedSearch(tmp_path).count()

    assert sorted(tmp_path.rglob("*")) == files


def test_a_label_that_is_no_json_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "restaurant_llm_batch.json").write_text(json.dumps(["?"]))

    with pytest.raises(PermanentBackendError, match="cannot be opened"):
        EmbeddedSearch(tmp_path)


def test_the_files_of_a_search_in_memory_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    search = EmbeddedSearch()
    search.index_reviews([review(1, 1, "맛있어요")])
    assert list(tmp_path.iterdir())

    del search
    gc.collect()

    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_copy_is_refused_and_leaves_the_files(search: EmbeddedSearch) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        try:
            search.count()
        except ConfigurationError as error:
            theirs.send(str(error))

    process = context.Process(target=child)
    process.start()
    process.join(WAIT)

    assert ours.poll()
    assert "make one in each worker process" in ours.recv()
    assert search.count() == 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("state", ["never opened", "closed", "open"])
@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(4), Strategy.threaded()])
@pytest.mark.sample(1)
def test_a_runner_of_a_module_works_in_a_worker_that_was_forked_or_says_what_to_do(
    state: str, strategy: Strategy, tmp_path: Path
) -> None:
    """Do as a prefork worker of Celery does, or `gunicorn --preload`, with a runner and an index made at import."""
    with EmbeddedSearch(tmp_path / "index") as made:
        made.index_reviews([review(number, 1, "맛있어요") for number in range(2)])
    search = EmbeddedSearch(tmp_path / "index")
    runner = BatchRunner(llm=FakeLLM(), search=search, strategy=strategy, store=tmp_path / "run.db")
    if state != "never opened":
        runner.run(SummarizeAspects(), range(2)).raise_for_failures()
    if state == "closed":
        runner.close()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def worker() -> None:
        report = runner.run(SummarizeAspects(), range(2))
        theirs.send((len(report.results), {str(failure.error) for failure in report.failures}))

    process = context.Process(target=worker)
    process.start()
    process.join(WAIT)
    done, said = ours.recv()
    if state == "open":
        assert done == 0
        assert len(said - {one for one in said if one.startswith("not run to its end")}) == 1
        assert any("make one in each worker process" in one for one in said)
    else:
        assert (done, said) == (2, set())
    runner.close()
    assert len(runner.run(SummarizeAspects(), range(2)).results) == 2


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be readable by all, as most systems do."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[tuple[bool, int]]:
    """Return whether they are folders, and the modes of a folder and of everything in it."""
    return {(path.is_dir(), path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*"))}


@pytest.mark.usefixtures("open_umask")
def test_a_new_index_and_all_that_the_engine_makes_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "index"
    with EmbeddedSearch(folder) as search:
        search.index_reviews([review(1, number, f"맛있어요 {number}") for number in range(300)])
        assert modes(tmp_path / "new") == {(True, 0o700), (False, 0o600)}
    with EmbeddedSearch(folder) as search:
        assert search.count() == 300

    assert modes(tmp_path / "new") == {(True, 0o700), (False, 0o600)}


@pytest.mark.usefixtures("open_umask")
def test_a_folder_that_exists_keeps_its_mode_and_what_is_made_in_it_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir(mode=0o755)
    with EmbeddedSearch(folder) as search:
        search.index_reviews([review(1, 1, "맛있어요")])

    assert folder.stat().st_mode & 0o777 == 0o755
    assert {mode for path in folder.iterdir() for _, mode in modes(path)} == {0o700, 0o600}


@pytest.mark.usefixtures("open_umask")
def test_an_index_that_a_group_may_read_stays_so(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with EmbeddedSearch(folder) as search:
        search.index_reviews([review(1, 1, "맛있어요")])
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    with EmbeddedSearch(folder) as search:
        search.index_reviews([review(1, 2, "친절해요")])

    assert (folder / "shard").stat().st_mode & 0o777 == 0o750
    assert (folder / "restaurant_llm_batch.json").stat().st_mode & 0o777 == 0o640
    assert (folder / "shard" / "edge_config.json").stat().st_mode & 0o777 != 0o600


@pytest.mark.usefixtures("open_umask")
def test_a_temporary_index_is_for_its_owner_only() -> None:
    search = EmbeddedSearch()
    search.index_reviews([review(1, 1, "맛있어요")])

    assert modes(search._shard._folder) == {(True, 0o700), (False, 0o600)}
