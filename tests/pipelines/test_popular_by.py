"""Lists of segments, of clusters and of keywords in a workspace: published, served, joined."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.candidates.spec import Popular
from models.lines import candidate_lines
from models.rankers.history import Actions
from models.sequences import ItemTable
from operations.fits import Fits
from pipelines.ranking.candidates import candidates_at
from pipelines.ranking.labels import Labels
from serving.recommend.candidates import Candidates, Found
from serving.recommend.member import NOBODY
from tests.pipelines.test_item_spaces import MEMBERS, market
from tests.worlds.workspace import AVERAGE, DAY, END, Workspace
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition
from transformations.timestamps import microseconds

CANDIDATES = (
    "Popular(version=1, days=30, count=12)",
    'Popular(name="by_field", version=1, days=30, count=12, by="field_of_work")',
    'Popular(name="varied", version=1, days=30, count=12, by="cluster", clusters=2)',
    'Neighbours(of="keywords_v1", version=1, nearest=4)',
)
CHANGED = 100
"""From this member on, their field is another one since an hour before END."""
RARE, BLANK = 2, 4


def write_members(workspace: Workspace) -> None:
    """Even members play even items, odd ones odd items; so do their fields of work tell."""
    rows = ["member_id,Field of work,since"]
    for member in range(MEMBERS):
        field = {RARE: "rare", BLANK: ""}.get(member, ("tech", "care")[member % 2])
        rows.append(f"{member},{field},2020-01-01")
        if member >= CHANGED:
            rows.append(f"{member},fresh,{END - timedelta(hours=1):%Y-%m-%d %H:%M:%S}")
    (workspace.root / "source" / "members.csv").write_text("\n".join(rows) + "\n")
    workspace.setting(
        "dim: 3",
        "dim: 3\nmembers: {source: source/members.csv, categorical: [Field of work], "
        "available_at: since}",
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("segments"), AVERAGE)
    write_members(workspace)
    encoders = ("TfidfSvd(version=1)", "Keywords(version=1)")
    workspace.lines(AVERAGE, encoders=encoders, candidates=CANDIDATES)
    workspace.run(END - DAY)
    workspace.run(END)
    return workspace


@pytest.fixture(scope="module")
def online(served: Workspace) -> dict[int, dict[str, Found]]:
    candidates = Candidates(served.config, served.store)
    members = (0, 1, RARE, BLANK, CHANGED, 99_999)
    found = {m: {each.source.name: each for each in candidates.of(m)} for m in members}
    candidates.close()
    return found


def lists(workspace: Workspace, view: str, run: int = 0) -> dict[str, Any]:
    """The lists that were made as of END, or days before."""
    file = partition(workspace.config.layout.lists(view), END - run * DAY)
    return {row["segment"]: row for row in pq.read_table(file).to_pylist()}


def brought(workspace: Workspace, labels: list[tuple[int, int]]) -> dict[str, list[list[str]]]:
    """What popular sources would have brought for members at times (microseconds)."""
    config, count = workspace.config, len(labels)
    none = np.zeros((count, 1), np.int64)
    asked = Labels(
        np.array([member for member, _ in labels]),
        np.array(["g-1"] * count, object),
        np.array(["play"] * count),
        np.ones(count, np.int32),
        np.array([at for _, at in labels], np.int64),
    )
    sources = [line for line in candidate_lines(config) if isinstance(line, Popular)]
    nothing = Actions(none.astype(object), none > 0, none.astype(np.int32), none)
    with connect(config) as con:
        found = candidates_at(config, con, workspace.store, sources, asked, nothing, {}, {})
    return {name: [items.tolist() for items in each] for name, each in found.items()}


def parities(items: Any) -> set[int]:
    return {int(item.removeprefix("g-")) % 2 for item in items}


def test_each_value_has_its_list(served: Workspace) -> None:
    made = lists(served, "popular_items_by_field_v1")
    assert set(made) == {"all", "care", "fresh", "rare", "tech"}
    assert parities(made["tech"]["item_ids"]) == {0}
    assert parities(made["care"]["item_ids"]) == {1}
    assert made["rare"]["item_ids"] == made["all"]["item_ids"]
    overall = lists(served, "popular_items_popular_v1")
    assert made["all"]["item_ids"] == overall["all"]["item_ids"]
    before = lists(served, "popular_items_by_field_v1", run=1)
    assert set(before) == {"all", "care", "rare", "tech"}


def test_a_member_gets_the_list_of_its_value(
    served: Workspace, online: dict[int, dict[str, Found]]
) -> None:
    made = lists(served, "popular_items_by_field_v1")
    expected = {0: "tech", 1: "care", RARE: "all", BLANK: "all", CHANGED: "fresh", 99_999: "all"}
    for member, segment in expected.items():
        found = online[member]["by_field"]
        assert found.items.tolist() == made[segment]["item_ids"], member
        assert found.scores.tolist() == made[segment]["scores"], member


def test_what_needs_no_member_is_the_list_of_everybody(served: Workspace) -> None:
    candidates = Candidates(served.config, served.store)
    found = {each.source.name: each.items.tolist() for each in candidates.popular()}
    assert candidates.of(None, NOBODY)[1].items.tolist() == found["by_field"]
    candidates.close()
    assert found["by_field"] == found["popular"]
    assert set(found) == {"popular", "by_field", "varied"}


def test_clusters_take_turns(served: Workspace, online: dict[int, dict[str, Found]]) -> None:
    assert set(lists(served, "popular_items_varied_v1")) == {"all"}
    varied = online[99_999]["varied"].items.tolist()
    # The texts of even and odd items share no word.
    assert all(parities(varied[place : place + 2]) == {0, 1} for place in range(0, 12, 2))


def test_keywords_have_neighbours(served: Workspace, online: dict[int, dict[str, Found]]) -> None:
    file = partition(served.config.layout.lists("item_neighbours_keywords_v1"), END)
    near = {row["item_id"]: row for row in pq.read_table(file).to_pylist()}
    own = served.config.in_space(Fits(served.config).spaces["keywords_v1"])
    with connect(own) as con:
        table = ItemTable.read(own, con, END)
    vectors = dict(zip(table.ids.to_pylist(), table.vectors[1:], strict=True))  # of length 1
    assert set(near) == set(vectors)
    for item, row in near.items():
        cosines = {other: float(vectors[item] @ vectors[other]) for other in vectors}
        assert row["scores"] == pytest.approx([cosines[other] for other in row["item_ids"]])
        del cosines[item]
        assert row["scores"] == pytest.approx(sorted(cosines.values(), reverse=True)[:4])
    liked = Candidates(served.config, served.store)
    voted = {other for item in liked.member(1).items for other in near[item]["item_ids"]}
    liked.close()
    assert len(online[1]["keywords"].items) > 0
    assert {*online[1]["keywords"].items} <= voted


def test_training_sees_the_profile_and_the_lists_of_the_labels_time(
    served: Workspace, online: dict[int, dict[str, Found]]
) -> None:
    view = "popular_items_by_field_v1"
    before, now = lists(served, view, run=1), lists(served, view)
    first, last = (microseconds(made["all"]["created_timestamp"]) for made in (before, now))
    asked = [
        (0, first - 1),
        (0, first),
        (CHANGED, first),  # its new value has no list yet
        (BLANK, first),
        *((member, last) for member in online),
    ]
    found = brought(served, asked)["popular_by_field_v1"]
    assert found[:4] == [
        [],
        before["tech"]["item_ids"],
        before["all"]["item_ids"],
        before["all"]["item_ids"],
    ]
    assert found[4:] == [each["by_field"].items.tolist() for each in online.values()]
    varied = brought(served, asked)["popular_varied_v1"]
    assert varied[-1] == online[99_999]["varied"].items.tolist()


def test_a_backfill_makes_no_clusters_before_their_space_was_fitted(tmp_path: Path) -> None:
    workspace = market(tmp_path, AVERAGE)
    write_members(workspace)
    workspace.lines(AVERAGE, encoders=("TfidfSvd(version=1)",), candidates=CANDIDATES[:3])
    workspace.run(END)  # fitted on what lies before three days ago
    workspace.backfill(END - 5 * DAY, END - 2 * DAY)
    made = {
        source: [
            partition(workspace.config.layout.lists(f"popular_items_{source}_v1"), at).exists()
            for at in (END - 5 * DAY, END - 2 * DAY)
        ]
        for source in ("by_field", "varied")
    }
    assert made == {"by_field": [True, True], "varied": [False, True]}
    assert set(lists(workspace, "popular_items_by_field_v1", run=5)) == {
        "all", "care", "rare", "tech",
    }  # fmt: skip


@pytest.mark.parametrize("by", ["Field of work", "age"])
def test_a_category_that_profiles_do_not_have(served: Workspace, by: str) -> None:
    served.lines(AVERAGE, candidates=(f'Popular(version=1, by="{by}")',))
    said = "by: expected 'cluster' or one of field_of_work, as members.categorical of activity.yaml"
    with pytest.raises(InputError, match=said):
        candidate_lines(served.config)
