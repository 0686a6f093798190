"""The lists of candidate sources: what is popular, what is new, what is near."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candidates.build import build_lists
from models.candidates.nearest import Nearest
from models.candidates.spec import CandidateSource, Neighbours, Popular
from tests.worlds.applied import utc
from transformations.config import Config, load_config
from transformations.duck import check, connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition

AS_OF = utc(20)
NEVER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "activity.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\n"
        "events: {source: events.parquet}\n"
        "items: {source: items.parquet, text: [text]}\n"
        "dim: 2\n"
        "actions: {APPLY: positive, DISMISS: negative}\n"
    )
    return load_config(file)


def write(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def acted(config: Config, *rows: tuple[int, int, str, datetime]) -> None:
    """Activity of member, item, action, timestamp."""
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    us = pa.timestamp("us", "UTC")
    write(
        config.layout.activity / "period=2026-01-01" / "part-0.parquet",
        pa.table(
            {
                "member_id": pa.array(columns[0], pa.int64()),
                "item_id": pa.array(columns[1], pa.int64()),
                "action": pa.array(columns[2], pa.string()),
                "event_timestamp": pa.array(columns[3], us),
                "ingested_at": pa.nulls(len(rows), us),
            }
        ),
    )


def staged(config: Config, *rows: tuple[int, datetime, datetime | None, str | None]) -> None:
    """Items with since when they are known, until when, and their kind."""
    us = pa.timestamp("us", "UTC")
    ids, since, until, kinds = zip(*rows, strict=True)
    write(
        config.layout.staged_items,
        pa.table(
            {
                "item_id": pa.array(ids, pa.int64()),
                "available_at": pa.array(since, us),
                "available_until": pa.array(until, us),
                "kind": pa.array(kinds, pa.string()),
                "categories": pa.array([[] for _ in ids], pa.list_(pa.string())),
            }
        ),
    )


def vectors(config: Config, *rows: tuple[int, datetime, list[float]]) -> None:
    us = pa.timestamp("us", "UTC")
    ids, since, embeddings = zip(*rows, strict=True)
    write(
        config.items_dir / "part-2026-01-01.parquet",
        pa.table(
            {
                "item_id": pa.array(ids, pa.int64()),
                "available_at": pa.array(since, us),
                "embedding": pa.array(embeddings, pa.list_(pa.float32())),
            }
        ),
    )


def built(config: Config, line: CandidateSource) -> list[dict[str, Any]]:
    with connect(config) as con:
        rows = build_lists(config, con, AS_OF, AS_OF, [(line, config)])
    file = partition(config.layout.lists(line.view(config.space)), AS_OF)
    assert rows == {line.view(config.space): len(pq.read_table(file)) if file.exists() else 0}
    return pq.read_table(file).to_pylist() if file.exists() else []


class TestPopular:
    LINE = Popular(version=1, days=7, count=2)

    def test_members_count_once_and_only_what_they_liked_lately(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in (1, 2, 3, 4)))
        acted(
            config,
            (10, 1, "APPLY", utc(14)),
            (10, 1, "APPLY", utc(15)),  # the same member again
            (10, 2, "APPLY", utc(14)),
            (11, 2, "APPLY", utc(19, 23)),
            (12, 3, "DISMISS", utc(14)),
            (13, 4, "APPLY", utc(12)),  # eight days ago
            (14, 4, "APPLY", AS_OF),  # not yet
        )
        (row,) = built(config, self.LINE)
        assert (row["segment"], row["item_ids"], row["scores"]) == ("all", [2, 1], [2.0, 1.0])
        assert row["event_timestamp"] == row["created_timestamp"] == AS_OF

    def test_the_window_begins_at_its_first_moment(self, config: Config) -> None:
        staged(config, (1, utc(1), None, None), (2, utc(1), None, None))
        start = AS_OF - timedelta(days=7)
        before = start - timedelta(microseconds=1)
        acted(config, (10, 1, "APPLY", start), (10, 2, "APPLY", before))
        (row,) = built(config, self.LINE)
        assert row["item_ids"] == [1]

    def test_an_item_that_is_over_unknown_or_a_search_is_not_recommended(
        self, config: Config
    ) -> None:
        staged(
            config,
            (1, utc(1), AS_OF, None),
            (2, utc(1), AS_OF + timedelta(microseconds=1), None),
            (3, utc(1), None, "search"),
            (4, AS_OF + timedelta(days=1), None, None),
        )
        acted(config, *((10, item, "APPLY", utc(19)) for item in (1, 2, 3, 4, 5)))
        (row,) = built(config, self.LINE)
        assert row["item_ids"] == [2]

    def test_the_last_version_by_then_says_when_an_item_ends(self, config: Config) -> None:
        staged(
            config,
            (1, utc(1), utc(2), None),
            (1, utc(3), None, None),  # open again
            (2, utc(1), None, None),
            (2, utc(3), utc(4), None),  # closed
        )
        acted(config, (10, 1, "APPLY", utc(19)), (10, 2, "APPLY", utc(19)))
        (row,) = built(config, self.LINE)
        assert row["item_ids"] == [1]

    def test_of_equal_items_the_smaller_id_comes_first(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in (3, 1, 2)))
        acted(config, *((10, item, "APPLY", utc(19)) for item in (2, 3, 1)))
        (row,) = built(config, self.LINE)
        assert row["item_ids"] == [1, 2]

    def test_nothing_is_popular(self, config: Config) -> None:
        staged(config, (1, utc(1), None, None))
        acted(config, (10, 1, "APPLY", utc(19)))
        assert len(built(config, self.LINE)) == 1
        acted(config)
        assert built(config, self.LINE) == []  # and the list of the run before is gone

    def test_what_is_new(self, config: Config) -> None:
        staged(
            config,
            (1, AS_OF - timedelta(days=7), None, None),
            (2, AS_OF - timedelta(days=3.5), None, None),
            (3, AS_OF, None, None),
            (4, AS_OF - timedelta(days=8), None, None),
            (4, AS_OF - timedelta(days=1), None, None),  # a new text of an old item
        )
        acted(config)
        (row,) = built(config, Popular(name="new", version=1, days=7, newest=True, count=9))
        assert (row["item_ids"], row["scores"]) == ([3, 2, 1], [1.0, 0.5, 0.0])


class TestNeighbours:
    LINE = Neighbours(of="tfidf_svd_v1", version=1, nearest=2)

    def test_the_nearest_by_the_newest_vectors(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in (1, 2, 3, 4)))
        vectors(
            config,
            (1, utc(1), [0.0, 1.0]),
            (1, utc(2), [1.0, 0.0]),
            (2, utc(1), [3.0, 3.0]),
            (3, utc(1), [0.0, 2.0]),
            (4, utc(1), [-1.0, 0.1]),
            (4, AS_OF + timedelta(days=1), [1.0, 0.0]),  # not yet
        )
        lists = {row["item_id"]: row for row in built(config, self.LINE)}
        assert lists[1]["item_ids"] == [2, 3]
        assert lists[1]["scores"] == pytest.approx([2**-0.5, 0.0])
        assert lists[2]["item_ids"] == [1, 3]
        assert lists[3]["item_ids"] == [2, 4]

    def test_an_item_that_is_over_has_neighbours_and_is_none(self, config: Config) -> None:
        staged(config, (1, utc(1), utc(5), None), (2, utc(1), None, None), (3, utc(1), None, None))
        vectors(config, *((item, utc(1), [1.0, item / 10]) for item in (1, 2, 3)))
        lists = {row["item_id"]: row["item_ids"] for row in built(config, self.LINE)}
        assert lists == {1: [2, 3], 2: [3], 3: [2]}

    def test_one_item_alone_has_none(self, config: Config) -> None:
        staged(config, (1, utc(1), None, None))
        vectors(config, (1, utc(1), [1.0, 0.0]))
        assert built(config, self.LINE) == []


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(0, 40),
    queries=st.integers(0, 10),
    count=st.integers(1, 12),
    similarity=st.sampled_from(["cosine", "dot"]),
    block=st.sampled_from([1, 50, 10_000]),
)
def test_nearest_is_what_sorting_all_finds(
    seed: int, items: int, queries: int, count: int, similarity: Any, block: int
) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers: many scores are equal, and some vectors are zeros.
    vectors = rng.integers(-2, 3, (items, 3)).astype(np.float32)
    asked = rng.integers(-2, 3, (queries, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.candidates.nearest.SCORES_AT_ONCE", block)
        rows, scores = Nearest(vectors, similarity).of(asked, count)
    for query, found, values in zip(asked, rows, scores, strict=True):
        expected = []
        for index, vector in enumerate(vectors):
            if vector.any() and query.any():
                score = float(query @ vector)
                if similarity == "cosine":
                    score /= float(np.linalg.norm(query) * np.linalg.norm(vector))
                expected.append((score, index))
        best = sorted((score for score, _ in expected), reverse=True)[:count]
        there = found[found >= 0]
        assert len(there) == len(set(there.tolist())) == len(best)
        assert values[: len(best)] == pytest.approx(best, abs=1e-6)
        by_index = {index: score for score, index in expected}
        assert [by_index[index] for index in there.tolist()] == pytest.approx(best, abs=1e-6)


def test_the_graph_finds_nearly_all_of_the_nearest() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3_000, 16)).astype(np.float32)
    vectors[7] = 0.0
    exact, _ = Nearest(vectors, "cosine").of(vectors[:200], 20)
    found, scores = Nearest(vectors, "cosine", exact=100).of(vectors[:200], 20)
    assert (found[7] == -1).all()
    asked = np.delete(np.arange(200), 7)
    same = [len(set(exact[row]) & set(found[row])) / 20 for row in asked]
    assert np.mean(same) > 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (found[asked, 0] == asked).all()


@pytest.mark.parametrize(
    ("item_ids", "scores", "rule"),
    [
        ([], [], "a list is not empty"),
        ([2], [1.0, 0.5], "each item has a score"),
        ([2, 2], [1.0, 1.0], "items of a list are distinct and not null"),
        ([2, None], [1.0, 1.0], "items of a list are distinct and not null"),
        ([2], [float("nan")], "scores are finite"),
        ([2, 3], [0.5, 1.0], "the best come first"),
        ([1, 2], [1.0, 0.5], "an item is not its own neighbour"),
    ],
)
def test_the_check_finds(item_ids: list[Any], scores: list[float], rule: str) -> None:
    con = duckdb.connect()
    con.execute(
        "create view candidate_lists as select 1::bigint as list_of, true as of_items, "
        f"{item_ids!r}::bigint[] as item_ids, ".replace("None", "null")
        + f"{scores!r}::float[] as scores, ".replace("nan", "'nan'::float")
        + "timestamptz '2026-01-20' as event_timestamp, "
        "timestamptz '2026-01-20' as created_timestamp"
    )
    with pytest.raises(RunFailedError, match=rule):
        check(con, "candidate_lists", {"as_of": AS_OF})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Popular(version=0), "version: expected 1 or more, got 0"),
        (lambda: Popular(version=1, days=0), "days: expected at least 1, got 0"),
        (lambda: Popular(version=1, name="Best!"), "expected a candidate source's name"),
        (lambda: Popular(version=1, count=0), "count: expected at least 1, got 0"),
        (lambda: Neighbours(of="a_v1", version=1, decay=1.5), "decay: expected above 0"),
        (lambda: Neighbours(of="a_v1", version=1, last=0), "last: expected at least 1"),
    ],
)
def test_a_wrong_line(made: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()
