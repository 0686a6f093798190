"""What sources bring in an evaluation, where they differ from what is online."""

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.candidates.popular import FEWEST
from models.candidates.spec import CandidateSource, NearestToMember, Popular
from models.spec import LearnedDecay
from pipelines.evaluation.live_pairs import LivePairs
from pipelines.evaluation.profiles import profiles_at
from tests.models.test_candidate_lists import AS_OF, acted, staged
from tests.worlds.applied import utc
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.timestamps import DAY_US, microseconds

DAY = microseconds(AS_OF) // DAY_US
ITEMS = pa.array([1, 2, 3, 4], pa.int64())
KINDS = ("job", "course", "job", "course")
SOURCES: tuple[CandidateSource, ...] = (
    Popular(version=1),
    Popular(name="by_field", version=1, by="field"),
    Popular(name="varied", version=1, by="cluster"),
    NearestToMember(aggregator="learned_decay_v1", version=1),
    NearestToMember(aggregator="courses_v1", version=1),
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "activity.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\n"
        "events: {source: events.parquet}\n"
        "items: {source: items.parquet, text: [text], kind: kind}\n"
        "members: {source: members.parquet, categorical: [field]}\n"
        "dim: 2\n"
        "actions: {APPLY: positive, ENROLL: {sign: positive, item_kind: course}}\n"
    )
    config = load_config(file)
    staged(config, *((item, utc(1), None, kind) for item, kind in enumerate(KINDS, start=1)))
    likes = [(member, 3, "APPLY", utc(19)) for member in (10, 11)]
    likes += [(member, 4, "ENROLL", utc(19)) for member in range(20, 20 + FEWEST)]
    acted(config, *likes, (10, 1, "APPLY", utc(19)))
    profiles(config, *((member, utc(1), "arts") for member in range(20, 20 + FEWEST)))
    return config


def profiles(config: Config, *rows: tuple[int, datetime, str | None]) -> None:
    """Profiles of member, since when, and field."""
    ids, since, fields = zip(*rows, strict=True)
    columns = {
        "member_id": pa.array(ids, pa.int64()),
        "available_at": pa.array(since, pa.timestamp("us", "UTC")),
        "field": pa.array(fields, pa.string()),
    }
    config.layout.members.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), config.layout.members)


def test_a_profile_is_the_newest_one_up_to_the_time(config: Config) -> None:
    profiles(config, (1, utc(2), "arts"), (1, utc(5), None), (1, utc(9), "law"), (2, utc(3), "art"))
    asked = [(1, utc(1)), (1, utc(2)), (2, utc(4)), (1, utc(8)), (1, utc(9)), (3, utc(9))]
    members, times = zip(*asked, strict=True)
    with connect(config) as con:
        found = profiles_at(
            config, con, pa.array(members), np.array([microseconds(at) for at in times])
        )
    values, there = found["field"]
    assert np.where(there, values, "").tolist() == ["", "arts", "art", "", "law", ""]


def test_a_segment_has_its_own_list_and_kinds_are_kept_apart(config: Config) -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0, 1]], np.float32)
    # A member of a field, one without, and one of a field that nobody liked in.
    period = SimpleNamespace(
        frame={"member_id": [20, 10, 30]},
        task=SimpleNamespace(labels=SimpleNamespace(times=np.full(3, microseconds(AS_OF)))),
    )
    bench: Any = SimpleNamespace(
        world=SimpleNamespace(config=config),
        data=SimpleNamespace(item_ids=ITEMS, periods={"test": period}),
        item_vectors=lambda _: SimpleNamespace(at=lambda _: vectors),
    )
    lines = {
        "learned_decay_v1": LearnedDecay(version=1),
        "courses_v1": LearnedDecay(name="courses", version=1, predicts=("ENROLL",)),
    }
    categories: Any = None
    with connect(config) as con:
        pairs = LivePairs(bench, con, lines, SOURCES, categories)
        for name, line in lines.items():
            fields = dict.fromkeys(
                line.vectors(config), np.tile(np.array([1, 0], np.float32), (3, 1))
            )
            pairs._kept["test", name] = fields
        found = pairs.candidates("test", np.arange(3), DAY)
        every, courses = pairs.there(DAY), pairs.there(DAY, ["course"])
    by_field = [items.tolist() for items in found.pop("popular_by_field_v1")]
    assert by_field == [[3], [3, 2, 0], [3, 2, 0]]
    brought = {name: items[0].tolist() for name, items in found.items()}
    assert brought == {
        "popular_popular_v1": [3, 2, 0],
        "popular_varied_v1": [3, 2, 0],
        "nearest_to_member_learned_decay_v1": [0, 1, 2, 3],
        "nearest_to_member_courses_v1": [1, 3],
    }
    assert (every.tolist(), courses.tolist()) == ([0, 1, 2, 3], [1, 3])
