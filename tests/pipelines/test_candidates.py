"""Candidate sources in a workspace: built and published by a run, found online for a member."""

import gc
import re
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from models.candidates.spec import NearestToMember, Neighbours, Popular
from models.lines import candidate_lines
from models.sequences import ItemTable
from operations.fits import Fits, current_lines, listing_sources
from pipelines.cli import app as cli
from pipelines.refresh import refresh_items
from serving.recommend.candidates import Candidates, Found
from tests.pipelines.test_item_spaces import CO_ACTIONS, ITEMS, market
from tests.worlds.workspace import AVERAGE, END, Workspace
from transformations.config import ROOT
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition, partitions

DAY = timedelta(days=1)
ENCODERS = ("TfidfSvd(version=1)", CO_ACTIONS)
DECAY = 'GeometricDecay(version=1, decay=0.5, items="co_actions_v1")'
KEPT_SMALL = DECAY.replace("version=1", 'name="small", version=1, store="int8"')
CANDIDATES = (
    "Popular(version=1, days=28, count=15)",
    'Popular(name="new", version=1, days=28, newest=True)',
    'Neighbours(of="co_actions_v1", version=1, nearest=6, last=3, decay=0.5, count=12)',
    'NearestToMember(aggregator="decay_v1", version=1, count=9)',
    'NearestToMember(aggregator="small_v1", version=1, count=9)',
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("candidates"), AVERAGE)
    workspace.lines(AVERAGE, DECAY, KEPT_SMALL, encoders=ENCODERS, candidates=CANDIDATES)
    workspace.run(END - DAY)
    workspace.run(END)
    return workspace


def test_what_was_closed_goes_without_a_garbage_collection(served: Workspace) -> None:
    """None looks at what serves (serving/request/service.py)."""
    candidates = Candidates(served.config, served.store)
    candidates.of(3)
    there = weakref.ref(candidates)
    gc.disable()
    try:
        candidates.close()
        del candidates
        assert there() is None
    finally:
        gc.enable()


def of(workspace: Workspace, member: object) -> dict[str, Found]:
    candidates = Candidates(workspace.config, workspace.store)
    found = {each.source.name: each for each in candidates.of(member)}
    candidates.close()
    return found


def liked(workspace: Workspace, member: int, days: int) -> list[str]:
    """What a member liked in the days before END, newest first, each once."""
    events = pd.read_csv(workspace.root / "source" / "events.csv", parse_dates=["ts"])
    own = events[(events.user_id == member) & (events.event_type == "play")]
    own = own[own.ts >= (END - days * DAY).replace(tzinfo=None)]
    newest = own.sort_values(["ts", "product"], ascending=False)["product"]
    return list(dict.fromkeys(newest))


def test_each_source_has_its_table_and_its_view(served: Workspace) -> None:
    views = {view.name for view in served.store.list_feature_views()}
    lists = {source.view(own.space) for source, own in listing_sources(served.config)}
    assert lists == {
        "popular_items_popular_v1",
        "popular_items_new_v1",
        "item_neighbours_co_actions_v1",
    }
    assert lists - {"popular_items_new_v1"} <= views
    neighbours = served.config.layout.lists("item_neighbours_co_actions_v1")
    for as_of in (END - DAY, END):
        table = pq.read_table(partition(neighbours, as_of))
        assert len(table) == ITEMS
        assert set(map(len, table["item_ids"].to_pylist())) == {6}


def test_what_is_popular_is_counted(served: Workspace) -> None:
    events = pd.read_csv(served.root / "source" / "events.csv", parse_dates=["ts"])
    since = (END - 28 * DAY).replace(tzinfo=None)
    recent = events[(events.event_type == "play") & (events.ts >= since)]
    members = recent.groupby("product").user_id.nunique()
    found = of(served, "3")["popular"]
    assert found.scores.tolist() == sorted(members, reverse=True)[:15]
    assert [members[item] for item in found.items] == found.scores.tolist()


def test_a_members_last_items_vote_with_their_neighbours(served: Workspace) -> None:
    neighbours = served.config.layout.lists("item_neighbours_co_actions_v1")
    rows = pq.read_table(partition(neighbours, END)).to_pylist()
    lists = {row["item_id"]: dict(zip(row["item_ids"], row["scores"], strict=True)) for row in rows}
    votes: dict[str, float] = {}
    for rank, item in enumerate(liked(served, 3, 28)[:3]):
        for neighbour, score in lists[item].items():
            votes[neighbour] = votes.get(neighbour, 0.0) + 0.5**rank * score
    found = of(served, "3")["co_actions"]
    assert len(found.items) == min(len(votes), 12)
    expected = sorted(votes.values(), reverse=True)[:12]
    assert found.scores == pytest.approx(expected, abs=1e-5)
    assert [votes[item] for item in found.items] == pytest.approx(expected, abs=1e-5)


def test_the_items_nearest_to_a_members_vectors(served: Workspace) -> None:
    space = Fits(served.config).spaces["co_actions_v1"]
    own = served.config.in_space(space)
    with connect(own) as con:
        table = ItemTable.read(own, con, END)
    vectors = table.vectors[1:] / np.linalg.norm(table.vectors[1:], axis=1, keepdims=True)
    line = next(line for line in current_lines(served.config) if line.name == "decay")
    answer = served.store.get_online_features(
        features=[f"{line.view}:play_embedding"], entity_rows=[{"member_id": 3}]
    ).to_dict()
    vector = np.array(answer["play_embedding"][0])
    scores = vectors @ vector / np.linalg.norm(vector)
    found = of(served, "3")["decay"]
    assert found.scores == pytest.approx(np.sort(scores)[::-1][:9], abs=1e-5)
    by_item = dict(zip(table.ids.to_pylist(), scores, strict=True))
    assert [by_item[item] for item in found.items] == pytest.approx(found.scores, abs=1e-5)


def test_a_vector_that_is_kept_as_int8_finds_the_same(served: Workspace) -> None:
    found = of(served, "3")
    assert found["small"].scores == pytest.approx(found["decay"].scores, abs=0.01)
    assert len(set(found["small"].items) & set(found["decay"].items)) >= 7


def test_who_nobody_knows_gets_what_is_popular(served: Workspace) -> None:
    found = of(served, "nobody" if served.config.member_id_type == "string" else 99_999)
    assert len(found["popular"].items) == 15
    for name in ("co_actions", "decay"):
        assert found[name].items.tolist() == []
        assert found[name].why_none == "nothing is near to what the member did"


def test_a_label_sees_the_list_that_could_be_read_then(served: Workspace) -> None:
    view = "item_neighbours_co_actions_v1"
    first = pq.read_table(partition(served.config.layout.lists(view), END - DAY)).to_pylist()
    published = [row["created_timestamp"] for row in first]
    labels = pd.DataFrame(
        {
            "item_id": [first[0]["item_id"]] * 2,
            "event_timestamp": [
                published[0] - timedelta(microseconds=1),
                published[0],
            ],
        }
    )
    joined = served.store.get_historical_features(
        entity_df=labels,
        features=[f"{view}:item_ids"],
        filter_by_created_timestamp=True,
    ).to_df()
    joined = joined.sort_values("event_timestamp", ignore_index=True)
    assert joined.item_ids[0] is None
    assert list(joined.item_ids[1]) == first[0]["item_ids"]


def test_a_rerun_keeps_since_when_equal_lists_could_be_read(served: Workspace) -> None:
    file = partition(served.config.layout.lists("item_neighbours_co_actions_v1"), END)
    before = pq.read_table(file)
    served.run(END)
    assert pq.read_table(file).sort_by("item_id") == before.sort_by("item_id")


def test_the_command_shows_every_source(served: Workspace) -> None:
    result = CliRunner().invoke(
        cli.app, ["candidates", "3", "--count", "2", "--config", str(served.root)]
    )
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    sources = [line for line in lines if line.startswith(("popular:", "neighbours:", "nearest_"))]
    assert [source.split("  ")[0] for source in sources] == [
        "popular: popular",
        "popular: new",
        "neighbours: co_actions_v1",
        "nearest_to_member: decay_v1",
        "nearest_to_member: small_v1",
    ]
    assert "no item was acted on, or became known, in its days" in result.output
    found = of(served, "3")["popular"]
    assert f"{found.scores[0]:.3g}" in lines[lines.index(sources[0]) + 1]
    assert found.items[0] in lines[lines.index(sources[0]) + 1]


def test_a_space_that_is_not_fitted_yet_is_said(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.lines(
        AVERAGE,
        encoders=("TfidfSvd(version=1)", CO_ACTIONS),
        candidates=("Popular(version=1)", 'Neighbours(of="co_actions_v1", version=1)'),
    )
    (workspace.root / "source" / "events.csv").write_text(
        "user_id,product,event_type,ts\n"
        + "".join(f"{n},g-{n},play,2026-03-0{n}\n" for n in range(1, 7))
    )
    workspace.run(END)
    assert "co_actions_v1 is not fitted yet" in workspace.said
    assert of(workspace, 1)["co_actions"].why_none == "co_actions_v1 is not fitted yet"


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (('Neighbours(of="skip_gram_v1", version=1)',), "expected one of tfidf_svd_v1"),
        (('NearestToMember(aggregator="gru_v1", version=1)',), "expected one of average_v1"),
        (("Popular(version=1)", "Popular(version=1, days=2)"), "popular_v1 twice"),
        (("Average(version=1)",), "expected CANDIDATES, a tuple of lines"),
    ],
)
def test_lines_that_cannot_be(tmp_path: Path, candidates: tuple[str, ...], said: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.lines(AVERAGE, candidates=candidates)
    with pytest.raises(InputError, match=said):
        candidate_lines(workspace.config)


def test_an_item_that_was_posted_since_has_neighbours_at_the_next_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(datetime.now(UTC) + n * timedelta(minutes=5) for n in (-2, -1))

    monkeypatch.setattr("pipelines.refresh.clock", SimpleNamespace(now=lambda: next(clock)))
    workspace = market(tmp_path, AVERAGE)
    candidates = ('Neighbours(of="co_actions_v1", version=1, nearest=3)', CANDIDATES[1])
    workspace.lines(AVERAGE, encoders=ENCODERS, candidates=candidates)
    workspace.run(END)
    lists = workspace.config.layout.lists("item_neighbours_co_actions_v1")

    def refreshed() -> list[str]:
        workspace.do("items refresh", lambda stages: refresh_items(workspace.config, stages))
        return pq.read_table(partition(lists, partitions(lists)[-1]))["item_id"].to_pylist()

    assert len(refreshed()) == ITEMS  # the run was of long ago
    with (workspace.root / "source" / "items.csv").open("a") as file:
        file.write("g-new,python engineer data\n")
    assert refreshed() == ["g-new"]
    row = workspace.store.get_online_features(
        features=["item_neighbours_co_actions_v1:item_ids"],
        entity_rows=[{"item_id": "g-new"}],
    ).to_dict()
    assert len(row["item_ids"][0]) == 3


def test_a_line_that_no_run_has_seen_yet(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.lines(AVERAGE, candidates=("Popular(version=1)",))
    with pytest.raises(InputError, match="first: activity run"):
        Candidates(workspace.config, workspace.store)


def test_a_catalogue_without_candidates_has_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert candidate_lines(workspace.config) == ()
    result = CliRunner().invoke(cli.app, ["candidates", "3", "--config", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert "expected CANDIDATES" in str(result.exception)


def test_the_page_shows_a_catalogue(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recommend.md").read_text()
    (shown,) = re.findall(r"<!-- test: candidates -->\n```python\n(.*?)```", page, re.DOTALL)
    workspace = Workspace(tmp_path)
    workspace.lines(AVERAGE, DECAY.replace("co_actions", "tfidf_svd"), encoders=ENCODERS)
    with (workspace.root / "catalog.py").open("a") as file:
        file.write(shown)
    lines = candidate_lines(workspace.config)
    assert [line.kind for line in lines] == [
        "popular",
        "popular",
        "neighbours",
        "nearest_to_member",
    ]


def test_every_kind_of_line_is_found_online() -> None:
    from serving.recommend.candidates import KINDS

    assert set(KINDS) == {Popular, Neighbours, NearestToMember}
