"""What a ranker read of a share of answers, as rows of `logged_features`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.rankers.inputs import Columns, Inputs
from serving.recommend.asked import Request
from serving.recommend.input_log import PAIRS, InputLog, Logged, inputs_table
from serving.recommend.metrics import RecommendMetrics
from serving.recommend.recommend import Recommender
from serving.recommend.scored import Scored
from serving.request.sequences import Event
from tests.worlds.recommend import (
    NOW,
    StandInScorer,
    StandInSources,
    config_of,
    parts_of,
    write_catalogue,
)
from transformations.config import Config

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)


def inputs_of(items: int) -> Inputs:
    """One member with a vector and a category; a number of each item, and of each pair."""
    return Inputs(
        Columns(
            categories={"member.city": np.array(["Zeist"], object)},
            vectors={"member.decay_v1": np.array([[1.0, 2.0]], np.float32)},
        ),
        Columns(numbers={"item.rank": np.arange(items, dtype=np.float32)}),
        Columns(numbers={"pair.match": np.full(items, np.nan, np.float32)}),
        np.zeros(items, np.int64),
        np.arange(items),
    )


def scored_of(items: int, ranker: str = "linear_v1") -> Scored:
    """Items 100, 101, …, the last one with the highest score."""
    return Scored(
        np.arange(items) + 100,
        np.arange(items, dtype=np.float32),
        [{}] * items,
        ranker=ranker,
        inputs=inputs_of(items),
    )


def rows(config: Config) -> list[pa.Table]:
    files = sorted(config.layout.logged_features.glob("*/*.parquet"))
    return [pq.ParquetFile(file).read() for file in files]


def test_a_pair_is_a_row_with_what_the_ranker_read(tmp_path: Path) -> None:
    some = [Logged(42, [100, 101], "linear_v1", AT, inputs_of(2))]
    table = inputs_table(config_of(tmp_path), some)
    assert table.drop_columns("pair.match").to_pylist() == [
        {
            "member_id": 42,
            "item_id": item,
            "ranker": "linear_v1",
            "read_at": AT,
            "item.rank": rank,
            "member.city": "Zeist",
            "member.decay_v1": [1.0, 2.0],
        }
        for item, rank in ((100, 0.0), (101, 1.0))
    ]
    assert np.isnan(table["pair.match"].to_numpy()).all()


def test_the_best_of_a_share_of_answers_are_logged(tmp_path: Path) -> None:
    config, metrics = config_of(tmp_path, {"log_features": 0.5}), RecommendMetrics()
    draws = iter([0.2, 0.5, 0.9, 0.1])
    log = InputLog(config, metrics, draw=lambda: next(draws))
    for member in (1, 2, 3, 4):
        log.add(member, scored_of(PAIRS + 5), AT)
    log.add(5, Scored(np.array([100]), np.zeros(1, np.float32), [{}]), AT)  # no ranker
    log.add(6, scored_of(0), AT)
    log.close()
    (table,) = rows(config)
    assert table["member_id"].to_pylist() == [1] * PAIRS + [4] * PAIRS
    best = [*range(104 + PAIRS, 104, -1)]
    assert table["item_id"].to_pylist() == best * 2
    assert table["item.rank"].to_pylist() == [item - 100 for item in best] * 2
    name = "activity_recommend_logged_features_total"
    assert metrics.registry.get_sample_value(name, {"outcome": "written"}) == 2 * PAIRS
    draws = iter([0.0])
    log.add(7, scored_of(3), AT)  # it is closed: counted
    assert metrics.registry.get_sample_value(name, {"outcome": "lost"}) == 3


def test_a_part_is_of_one_ranker_and_one_day(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"log_features": 1})
    log = InputLog(config)
    for ranker, at in (("a", AT), ("b", AT), ("b", AT + timedelta(days=1))):
        log.add(1, scored_of(1, ranker), at)
    log.close()
    tables = rows(config)
    told = [(table["ranker"].to_pylist(), table["read_at"].to_pylist()) for table in tables]
    assert sorted(told) == [(["a"], [AT]), (["b"], [AT]), (["b"], [AT + timedelta(days=1)])]


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_nothing_and_of_all(tmp_path: Path, share: float) -> None:
    config = config_of(tmp_path, {"log_features": share})
    log = InputLog(config)
    for member in range(5):
        log.add(member, scored_of(1), AT)
    log.close()
    assert sum(map(len, rows(config))) == 5 * share


class Reading(StandInScorer):
    """A scorer that says what it read."""

    last: Scored

    def of(self, *asked: Any, **more: Any) -> Scored:
        self.last = super().of(*asked, **more)
        self.last.inputs = inputs_of(len(self.last.items))
        return self.last


def test_the_recommender_logs_what_was_read_and_keeps_none_of_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"log_features": 1})
    write_catalogue(config)
    scorer = Reading()
    parts = parts_of(config, StandInSources(), scorer=scorer)
    with Recommender(config, parts, log=InputLog(config)) as recommender:
        recommender.of(Request(42))
        assert scorer.last.inputs is None  # a kept list would hold its vectors for half a minute
        recommender.of(Request(42))  # from memory: nothing was read
        at = NOW - timedelta(minutes=1)
        recommender.of(Request(43, events=[Event(43, 1, "APPLY", at)]))  # no store has it
        recommender.of(Request(44, by="votes"))
    (table,) = rows(config)
    assert {*table["member_id"].to_pylist()} == {42}
