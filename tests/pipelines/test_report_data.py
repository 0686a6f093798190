"""What the report reads from tables: small cases, and the nearest items against numpy."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.manifest import KEYS
from models.spec import Average, GeometricDecay, Packaged
from pipelines.report.data import distributions, member_map, shown_members
from pipelines.report.result import Action, MemberRow, Nearest, NearItem
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition
from transformations.member_columns import UTC_US

AS_OF = datetime(2026, 3, 20, tzinfo=UTC)
DECAY = GeometricDecay(version=1, decay=0.8)
AVERAGE = Average(version=1)


class Tables:
    """A data folder with small versions of the tables that the report reads."""

    def __init__(self, folder: Path, id_type: str = "int64", **items: Any) -> None:
        self.config = Config.model_validate(
            {
                "data_dir": str(folder / "data"),
                "id_type": id_type,
                "items": items or {"text": ["title"], "categories": ["genres", "decade"]},
                "dim": 2,
                "length": 4,
            }
        )
        self.id = pa.int64() if id_type == "int64" else pa.string()

    def sequences(self, members: Mapping[Any, Sequence[tuple[Any, str]]]) -> None:
        """Member → its (item, action), oldest first, a day apart; the newest is an hour old."""
        times = [
            [AS_OF - timedelta(days=len(row) - 1 - n, hours=1) for n in range(len(row))]
            for row in members.values()
        ]
        columns = {
            "member_id": pa.array(members, self.id),
            "item_ids": pa.array([[i for i, _ in r] for r in members.values()], pa.list_(self.id)),
            "actions": pa.array(
                [[a for _, a in r] for r in members.values()], pa.list_(pa.string())
            ),
            "event_timestamps": pa.array(times, pa.list_(UTC_US)),
            "n_actions": pa.array([len(row) for row in members.values()], pa.int64()),
        }
        self._write(partition(self.config.layout.sequences, AS_OF), columns)

    def vectors(self, aggregator: Any, members: Mapping[Any, Sequence[Sequence[float]]]) -> None:
        """Member → one vector for each field of the aggregator."""
        columns = {"member_id": pa.array(members, self.id)}
        for index, field in enumerate(aggregator.vectors(self.config)):
            rows = [vectors[index] for vectors in members.values()]
            columns[field] = pa.array(rows, pa.list_(pa.float32()))
        self._write(partition(self.config.layout.embeddings(aggregator.view), AS_OF), columns)

    def items(self, rows: Sequence[tuple[Any, Sequence[float], int]]) -> None:
        """(item, vector, days before as_of that it became available)."""
        columns = {
            "item_id": pa.array([item for item, *_ in rows], self.id),
            "embedding": pa.array([vector for _, vector, _ in rows], pa.list_(pa.float32())),
            "available_at": pa.array([AS_OF - timedelta(days=d) for *_, d in rows], UTC_US),
        }
        self._write(self.config.items_dir / "part-a.parquet", columns)

    def staged(self, rows: Sequence[tuple[Any, str | None, Sequence[str], int]]) -> None:
        """(item, text, categories, days before as_of that it became known)."""
        columns = {
            "item_id": pa.array([item for item, *_ in rows], self.id),
            "available_at": pa.array([AS_OF - timedelta(days=d) for *_, d in rows], UTC_US),
            "text": pa.array([text for _, text, *_ in rows], pa.string()),
            "categories": pa.array([c for _, _, c, _ in rows], pa.list_(pa.string())),
        }
        self._write(self.config.layout.staged_items, columns)

    @staticmethod
    def _write(file: Path, columns: Mapping[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(dict(columns)), file)


def test_lengths_and_actions_are_counted(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.sequences({1: [(10, "APPLY")], 2: [], 3: [(10, "SAVE")], 4: [(10, "SAVE")] * 4})
    with connect(tables.config) as con:
        counted = distributions(tables.config, con, AS_OF)
    # Member 2 has an empty sequence, which is not counted.
    assert counted.sequence_length.counts == [2, 0, 0, 1]
    assert counted.sequence_length.edges == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert counted.actions == {"APPLY": 1, "SAVE": 5, "DISMISS": 0}


def test_long_sequences_share_bins(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.config = tables.config.model_copy(update={"length": 129})
    tables.sequences({1: [(10, "APPLY")] * 129, 2: [(10, "APPLY")] * 3, 3: [(10, "APPLY")] * 4})
    with connect(tables.config) as con:
        lengths = distributions(tables.config, con, AS_OF).sequence_length
    assert lengths.edges[:3] == [0.5, 3.5, 6.5]
    assert lengths.counts[:2] == [1, 1]
    assert sum(lengths.counts) == 3
    assert lengths.edges[-1] > 129


def map_tables(folder: Path, **items: Any) -> Tables:
    tables = Tables(folder, **items)
    tables.sequences(
        {
            1: [(10, "APPLY"), (11, "APPLY"), (12, "APPLY")],
            2: [(12, "SAVE"), (12, "APPLY"), (12, "APPLY")],
            3: [(13, "DISMISS"), (10, "APPLY")],
            4: [],
            5: [(10, "APPLY")],
        }
    )
    tables.vectors(
        DECAY,
        {
            1: [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
            2: [[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
            3: [[0.0, 0.5], [9.0, 0.0], [0.0, 0.0]],
            4: [[7.0, 7.0], [0.0, 0.0], [0.0, 0.0]],
            5: [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        },
    )
    tables.staged(
        [
            (10, "Ten", ["genres=Drama", "decade=2010s"], 9),
            (11, "Eleven", ["genres=Drama", "genres=War=Peace", "decade=2010s"], 9),
            (12, "Twelve, first", ["genres=Crime"], 9),
            (12, "Twelve", ["genres=War=Peace", "decade=2010s"], 8),
            (12, "Twelve, not yet known", ["genres=Horror"], -1),
            (13, "Thirteen", [], 9),
        ]
    )
    return tables


def test_a_member_of_the_map_has_the_commonest_category_known_by_then(tmp_path: Path) -> None:
    tables = map_tables(tmp_path)
    with connect(tables.config) as con:
        drawn = member_map(tables.config, con, AS_OF, DECAY)
        assert drawn == member_map(tables.config, con, AS_OF, DECAY)
    assert drawn is not None
    # 4 has no actions and 5 a vector of zeros. Drama and War=Peace tie in 1: the first by name.
    assert drawn.category == ["Drama", "War=Peace", "Drama"]
    assert drawn.coloured_by == "commonest genres of the items they acted on"
    assert (drawn.variant, drawn.vector) == ("decay", "apply_embedding")
    assert drawn.explained == pytest.approx(1.0)  # two floats have no third axis
    assert np.abs(drawn.x).round(3).tolist() == [1.0, 1.0, 0.0]


def test_the_sample_of_the_map_has_its_size(tmp_path: Path) -> None:
    tables = map_tables(tmp_path)
    with connect(tables.config) as con:
        assert member_map(tables.config, con, AS_OF, DECAY, size=2) is None  # no plane in two
        drawn = member_map(tables.config, con, AS_OF, DECAY, size=3)
    assert drawn is not None
    assert len(drawn.x) == 3


def test_rare_categories_are_other(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    members = {n: [(n // 2, "APPLY")] for n in range(24)} | {99: [(7, "APPLY")]}
    tables.sequences(members)
    tables.vectors(DECAY, {n: [[1.0, float(n)]] * 3 for n in members})
    tables.staged([(n, "", [f"genres=kind {n:02d}"], 1) for n in range(12)])
    with connect(tables.config) as con:
        drawn = member_map(tables.config, con, AS_OF, DECAY)
    assert drawn is not None
    assert len(set(drawn.category)) == 10
    assert drawn.category.count("kind 07") == 3
    assert drawn.category.count("other") == 6


def test_without_categories_the_action_colours_the_map(tmp_path: Path) -> None:
    tables = map_tables(tmp_path, embedding="vector")
    with connect(tables.config) as con:
        drawn = member_map(tables.config, con, AS_OF, DECAY)
    assert drawn is not None
    assert drawn.category == ["APPLY", "APPLY", "APPLY"]
    assert drawn.coloured_by == "commonest action"


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_a_member_is_shown_with_the_items_near_its_vectors(tmp_path: Path, id_type: str) -> None:
    known: Any = int if id_type == "int64" else lambda number: f"id '{number}'"
    a, b, c, late, zero = (known(number) for number in (10, 11, 12, 13, 14))
    one, two = known(1), known(2)
    tables = Tables(tmp_path, id_type)
    tables.sequences({one: [(a, "APPLY"), (b, "SAVE"), (a, "DISMISS")], two: [(a, "APPLY")]})
    tables.vectors(DECAY, {one: [[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]], two: [[0.0, 1.0]] * 3})
    first = [(a, [1.0, 0.0], 3), (b, [0.0, 1.0], 3), (c, [1.0, 1.0], 9), (c, [-1.0, 0.0], 2)]
    tables.items([*first, (late, [1.0, 0.0], -1), (zero, [0.0, 0.0], 3)])
    tables.staged([(a, "Ten", ["genres=Drama"], 3), (c, None, ["genres=War"], 3), (b, "", [], 3)])
    with connect(tables.config) as con:
        shown = shown_members(tables.config, con, AS_OF, [DECAY], count=1, actions=2, nearest=2)
    hour = timedelta(hours=1)
    ten, eleven = {"item": a, "text": "Ten · Drama"}, {"item": b, "text": None}
    # With three distinct actions it is shown first. The newest vector of item c is (-1, 0).
    assert shown == [
        MemberRow(
            member_id=one,
            actions=[
                Action(when=AS_OF - hour, action="DISMISS", **ten),
                Action(when=AS_OF - timedelta(days=1) - hour, action="SAVE", **eleven),
            ],
            nearest=[
                Nearest(
                    variant="decay",
                    vector="apply_embedding",
                    items=[NearItem(**ten, similarity=1.0), NearItem(**eleven, similarity=0.0)],
                ),
                Nearest(
                    variant="decay",
                    vector="save_embedding",
                    items=[NearItem(**eleven, similarity=1.0), NearItem(**ten, similarity=0.0)],
                ),
                Nearest(variant="decay", vector="dismiss_embedding", items=[]),
            ],
        )
    ]


def test_each_aggregator_in_the_items_space_is_shown(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    wide = packaged(tmp_path / "wide", dim=3)
    tables.sequences({1: [(10, "APPLY")]})
    for aggregator in (AVERAGE, DECAY):
        tables.vectors(aggregator, {1: [[1.0, 0.0]] * 3})
    tables.vectors(wide, {1: [[1.0, 0.0, 0.0]]})
    tables.items([(10, [1.0, 0.0], 3)])
    tables.staged([])
    with connect(tables.config) as con:
        (shown,) = shown_members(tables.config, con, AS_OF, [AVERAGE, DECAY, wide])
    assert [near.variant for near in shown.nearest] == ["average"] * 3 + ["decay"] * 3
    assert {item.text for near in shown.nearest for item in near.items} == {None}


def packaged(folder: Path, dim: int) -> Packaged:
    """An aggregator of one vector: its manifest, which is all that the report reads."""
    folder.mkdir(exist_ok=True)
    manifest = dict.fromkeys(KEYS) | {"vectors": {"activity_embedding": dim}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Packaged(name=folder.name, version=1, path=str(folder))


whole = st.integers(-3, 3).map(float)
vector = st.tuples(whole, whole)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    members=st.lists(vector, min_size=1, max_size=4),
    items=st.lists(st.tuples(vector, st.sampled_from([-1, 0, 2])), min_size=1, max_size=12),
)
def test_the_nearest_items_are_those_of_numpy(
    tmp_path: Path, members: list[tuple[float, float]], items: list[tuple[Any, int]]
) -> None:
    tables = Tables(tmp_path)
    tables.sequences({n: [(0, "APPLY")] for n in range(len(members))})
    theirs = packaged(tmp_path / "theirs", dim=2)
    tables.vectors(theirs, {n: [one] for n, one in enumerate(members)})
    tables.items([(n, one, days) for n, (one, days) in enumerate(items)])
    tables.staged([])
    with connect(tables.config) as con:
        shown = shown_members(tables.config, con, AS_OF, [theirs], nearest=3)
    assert sorted(member.member_id for member in shown) == list(range(len(members)))
    for member in shown:
        mine = np.array(members[int(member.member_id)])
        cosines = {
            item: float(mine @ one / np.linalg.norm(mine) / np.linalg.norm(one))
            for item, (one, days) in enumerate(items)
            if days >= 0 and np.any(mine) and np.any(one)
        }
        expected = sorted(cosines.values(), reverse=True)[:3]
        got = member.nearest[0].items
        assert [near.similarity for near in got] == pytest.approx(expected, abs=1e-6)
        # Ties may be in any order, but each item has its own cosine.
        assert len({near.item for near in got}) == len(got)
        for near in got:
            assert near.similarity == pytest.approx(cosines[int(near.item)], abs=1e-6)


def test_missing_tables_are_named(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    with connect(tables.config) as con:
        with pytest.raises(InputError, match="expected the sequences of 2026-03-20"):
            distributions(tables.config, con, AS_OF)
        tables.sequences({1: [(10, "APPLY")]})
        tables.staged([])
        with pytest.raises(InputError, match="expected the vectors of decay_v1"):
            member_map(tables.config, con, AS_OF, DECAY)
        with pytest.raises(InputError, match="expected item vectors of"):
            shown_members(tables.config, con, AS_OF, [DECAY])
