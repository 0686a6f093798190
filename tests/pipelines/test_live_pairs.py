"""What sources bring in an evaluation, where they differ from what is online."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.candidates.spec import CandidateSource, NearestToMember, Popular
from models.spec import LearnedDecay
from pipelines.evaluation.live_pairs import LivePairs
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
    acted(config, (10, 3, "APPLY", utc(19)), (11, 3, "APPLY", utc(19)), (10, 1, "APPLY", utc(19)))
    return config


def test_segments_are_of_all_and_kinds_are_kept_apart(config: Config) -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0, 1]], np.float32)
    bench: Any = SimpleNamespace(
        world=SimpleNamespace(config=config),
        data=SimpleNamespace(item_ids=ITEMS),
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
            fields = dict.fromkeys(line.vectors(config), np.array([[1, 0]], np.float32))
            pairs._kept["test", name] = fields
        found = pairs.candidates("test", np.array([0]), DAY)
        every, courses = pairs.there(DAY), pairs.there(DAY, ["course"])
    brought = {name: items[0].tolist() for name, items in found.items()}
    assert brought == {
        "popular_popular_v1": [2, 0],
        "popular_by_field_v1": [2, 0],
        "popular_varied_v1": [2, 0],
        "nearest_to_member_learned_decay_v1": [0, 1, 2, 3],
        "nearest_to_member_courses_v1": [1, 3],
    }
    assert (every.tolist(), courses.tolist()) == ([0, 1, 2, 3], [1, 3])
