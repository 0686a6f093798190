"""What is popular by a category of profiles, and by clusters of items."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candidates.build import ids_there
from models.candidates.clusters import turns
from models.candidates.popular import FEWEST
from models.candidates.spec import Popular
from tests.models.test_candidate_lists import AS_OF, acted, built, staged, vectors, write
from tests.worlds.applied import utc
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.errors import InputError

BY_FIELD = Popular(name="by_field", version=1, days=7, count=3, by="field")
BY_CLUSTER = Popular(name="clusters", version=1, days=7, count=9, by="cluster", clusters=2)


def config_in(folder: Path) -> Config:
    file = folder / "activity.yaml"
    file.write_text(
        f"data_dir: {folder}/data\n"
        "events: {source: events.parquet}\n"
        "items: {source: items.parquet, text: [text]}\n"
        "members: {source: members.parquet, categorical: [field]}\n"
        "dim: 2\n"
        "actions: {APPLY: positive, DISMISS: negative}\n"
    )
    return load_config(file)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_in(tmp_path)


def profiles(config: Config, *rows: tuple[int, datetime, str | None]) -> None:
    """Members with their field of work, since when."""
    ids, since, fields = list(zip(*rows, strict=True)) or [[], [], []]
    write(
        config.layout.members,
        pa.table(
            {
                "member_id": pa.array(ids, pa.int64()),
                "available_at": pa.array(since, pa.timestamp("us", "UTC")),
                "field": pa.array(fields, pa.string()),
            }
        ),
    )


def segments(config: Config, line: Popular = BY_FIELD) -> dict[str, dict[int, float]]:
    """Each segment → its items with their scores, the best first."""
    return {
        row["segment"]: dict(zip(row["item_ids"], row["scores"], strict=True))
        for row in built(config, line)
    }


class TestByProfile:
    def test_a_value_has_a_list_of_what_its_own_members_like(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in (1, 2, 3)))
        nurses, cooks = range(5), range(10, 16)
        profiles(
            config,
            *((member, utc(1), "nurse") for member in nurses),
            *((member, utc(1), "cook") for member in cooks),
        )
        acted(
            config,
            *((member, 1, "APPLY", utc(18)) for member in nurses),
            *((member, 1, "APPLY", utc(19)) for member in nurses),  # counts once
            *((member, 2, "APPLY", utc(18)) for member in cooks),
            (0, 3, "APPLY", utc(18)),
            (1, 2, "DISMISS", utc(18)),
        )
        found = segments(config)
        assert found == {
            "all": {2: 6.0, 1: 5.0, 3: 1.0},
            "cook": {2: 6.0},
            "nurse": {1: 5.0, 3: 1.0},
        }
        assert list(found["all"]) == [2, 1, 3]

    def test_few_members_are_no_segment_and_get_the_list_of_all(self, config: Config) -> None:
        staged(config, (1, utc(1), None, None), (2, utc(1), None, None))
        # The fifth nurse liked nothing lately; somebody who says "all" is nobody's segment.
        profiles(
            config,
            *((member, utc(1), "nurse") for member in range(5)),
            *((member, utc(1), "all") for member in range(20, 26)),
            (30, utc(1), None),
        )
        acted(
            config,
            *((member, 1, "APPLY", utc(18)) for member in range(4)),
            (4, 1, "APPLY", utc(10)),
            *((member, 2, "APPLY", utc(18)) for member in range(20, 26)),
            (30, 2, "APPLY", utc(18)),
            (31, 2, "APPLY", utc(18)),  # without a profile
        )
        everybody = {2: 8.0, 1: 4.0}
        assert segments(config) == {"all": everybody, "nurse": everybody}

    def test_a_profile_counts_from_when_it_was_known(self, config: Config) -> None:
        staged(config, (1, utc(1), None, None))
        later = AS_OF + timedelta(microseconds=1)
        profiles(
            config,
            *((member, utc(1), "cook") for member in range(5)),
            *((member, AS_OF, "nurse") for member in range(5)),  # as of now they are
            *((member, later, "smith") for member in range(5)),
        )
        acted(
            config,
            *((member, 1, "APPLY", utc(18)) for member in range(5)),
            (9, 1, "APPLY", utc(18)),
        )
        # Nobody is a cook any more, but no old list may stay where cooks would look.
        assert segments(config) == {"all": {1: 6.0}, "cook": {1: 6.0}, "nurse": {1: 5.0}}

    def test_without_staged_profiles(self, config: Config) -> None:
        staged(config, (1, utc(1), None, None))
        acted(config, (1, 1, "APPLY", utc(18)))
        with pytest.raises(InputError, match="expected profiles of members with field"):
            built(config, BY_FIELD)


members, items = st.integers(0, 14), st.integers(1, 4)
moments = st.sampled_from([AS_OF + timedelta(days=day) for day in (-9, -7, -3, -1, 0, 1)])


@settings(max_examples=40, deadline=None)
@given(
    profiled=st.lists(
        st.tuples(members, moments, st.sampled_from(["cook", "nurse", "all", None])),
        unique_by=lambda row: row[:2],
        max_size=25,
    ),
    actions=st.lists(
        st.tuples(members, items, st.sampled_from(["APPLY", "APPLY", "DISMISS"]), moments),
        min_size=1,
        max_size=60,
    ),
)
def test_segments_are_what_counting_by_hand_finds(
    profiled: list[tuple[int, datetime, str | None]],
    actions: list[tuple[int, int, str, datetime]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = config_in(tmp_path_factory.mktemp("segments"))
    staged(config, *((item, utc(1), None, None) for item in (1, 2, 3)))  # 4 is not known
    profiles(config, *profiled)
    acted(config, *actions)
    value: dict[int, str | None] = {}
    values = set()
    for member, at, field in sorted(profiled, key=lambda row: row[1]):
        if at <= AS_OF:
            value[member] = None if field == "all" else field
            values.add(value[member])
    liked = {
        (member, item)
        for member, item, action, at in actions
        if action == "APPLY" and AS_OF - timedelta(days=7) <= at < AS_OF and item != 4
    }
    actors, counts = defaultdict(set), defaultdict(Counter)
    for member, item in liked:
        for segment in ("all", value.get(member)):
            actors[segment].add(member)
            counts[segment][item] += 1
    expected = {}
    for segment in {"all", *values} - {None}:
        of = segment if len(actors[segment]) >= FEWEST else "all"
        best = sorted(counts[of].items(), key=lambda pair: (-pair[1], pair[0]))
        if best:
            expected[segment] = best[:3]
    assert {segment: [*found.items()] for segment, found in segments(config).items()} == expected


class TestByCluster:
    def test_clusters_take_turns(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in range(1, 7)))
        vectors(
            config,
            *((item, utc(1), [1.0, item / 100]) for item in (1, 2, 3)),
            *((item, utc(1), [item / 100, 1.0]) for item in (4, 5)),
        )  # 6 has no vector: a cluster of its own
        likes = {1: 5, 2: 4, 3: 3, 4: 2, 5: 1, 6: 1}
        acted(
            config,
            *((m, item, "APPLY", utc(18)) for item, count in likes.items() for m in range(count)),
        )
        (row,) = built(config, BY_CLUSTER)
        assert row["segment"] == "all"
        assert row["item_ids"] == [1, 4, 6, 2, 5, 3]
        assert row["scores"] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
        assert built(config, BY_CLUSTER)[0]["item_ids"] == row["item_ids"]
        (one,) = built(config, Popular(version=1, by="cluster", clusters=20, count=2))
        assert one["item_ids"] == [1, 2]  # more clusters than items: each is one

    def test_equal_vectors_are_one_cluster(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in (1, 2, 3)))
        apart = ((1, [1.0, 0.0]), (2, [1.0, 0.0]), (3, [0.0, 1.0]))
        vectors(config, *((item, utc(1), vector) for item, vector in apart))
        likes = ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (1, 3))
        acted(config, *((m, item, "APPLY", utc(18)) for m, item in likes))
        (row,) = built(config, Popular(version=1, by="cluster", clusters=20))
        assert row["item_ids"] == [1, 3, 2]

    def test_without_vectors_it_is_what_is_popular(self, config: Config) -> None:
        staged(config, *((item, utc(1), None, None) for item in (1, 2)))
        acted(config)
        assert built(config, BY_CLUSTER) == []
        acted(config, (1, 2, "APPLY", utc(18)), (2, 2, "APPLY", utc(18)), (2, 1, "APPLY", utc(18)))
        assert built(config, BY_CLUSTER)[0]["item_ids"] == [2, 1]
        later = AS_OF + timedelta(days=1)
        vectors(config, (1, later, [1.0, 0.0]), (2, later, [0.0, 1.0]))
        assert built(config, BY_CLUSTER)[0]["item_ids"] == [2, 1]  # not yet


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3)), max_size=12))
def test_turns_are_what_dealing_by_hand_gives(rows: list[tuple[int, int]]) -> None:
    rows = sorted(rows, key=lambda row: -row[1])
    stacks: dict[int, list[int]] = defaultdict(list)
    for place, (cluster, _) in enumerate(rows):
        stacks[cluster].append(place)
    order = sorted(
        stacks, key=lambda c: (-sum(rows[place][1] for place in stacks[c]), stacks[c][0])
    )
    expected = []
    while any(stacks.values()):
        expected += [stacks[cluster].pop(0) for cluster in order if stacks[cluster]]
    clusters = np.array([cluster for cluster, _ in rows], np.int64)
    scores = np.array([score for _, score in rows], np.float64)
    assert turns(clusters, scores).tolist() == expected


def test_items_of_some_kinds(config: Config) -> None:
    kinds = ("job", "course", None, "search", "job")
    staged(config, *((item, utc(1), None, kind) for item, kind in enumerate(kinds, start=1)))
    with connect(config) as con:
        found = {
            str(asked): ids_there(config, con, AS_OF, asked).to_pylist()
            for asked in (None, ["job"], ["course", "job"], ["song"])
        }
    assert found == {
        "None": [1, 2, 3, 5],
        "['job']": [1, 5],
        "['course', 'job']": [1, 2, 5],
        "['song']": [],
    }


def test_wrong_settings() -> None:
    with pytest.raises(InputError, match="newest: expected False where `by` is given, got True"):
        Popular(version=1, newest=True, by="field")
    with pytest.raises(InputError, match="clusters: expected at least 1, got 0"):
        Popular(version=1, by="cluster", clusters=0)
