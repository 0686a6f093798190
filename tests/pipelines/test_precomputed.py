"""Lists made by a run for active members: what the service would answer, read when it cannot."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from models.lines import ranker_lines
from operations.rankers import newest
from pipelines.ranking.precomputed import active_members, precompute, write_lists
from pipelines.ranking.train import train_rankers
from serving.recommend.asked import Request
from serving.recommend.parts import lists_of, open_parts
from serving.recommend.precomputed import made_before
from serving.recommend.recommend import Recommender
from serving.recommend.scored import NoLists, Scored, as_ids
from serving.recommend.scoring import Scoring
from tests.pipelines.test_candidates import CANDIDATES, DECAY, ENCODERS, KEPT_SMALL
from tests.pipelines.test_item_spaces import MEMBERS, market
from tests.worlds.workspace import AVERAGE, DAY, END, Workspace
from transformations.duck import connect
from transformations.errors import RunFailedError
from transformations.layout import partition
from transformations.names import RECOMMENDATIONS_VIEW

RANKERS = ('Linear(version=1, aggregators=("decay_v1", "small_v1"), labels=400)',)
N = 4


def ready(folder: Path, precomputed: int = 5_000) -> Workspace:
    workspace = market(folder, AVERAGE, holdback=5)
    settings = f"recommend: {{n: {N}, precompute: {precomputed}, deadline: 60s}}\n"
    workspace.setting("fit_holdback:", f"{settings}fit_holdback:")
    workspace.lines(
        *(AVERAGE, DECAY, KEPT_SMALL), encoders=ENCODERS, candidates=CANDIDATES, rankers=RANKERS
    )
    return workspace


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = ready(tmp_path_factory.mktemp("precomputed"))
    workspace.run(END)
    workspace.backfill(*(END - back * DAY for back in range(5, 0, -1)))

    def work(stages: Any) -> None:
        train_rankers(workspace.config, END, stages)
        precompute(workspace.config, END, stages)

    workspace.do("rankers", work)
    return workspace


def rows_of(workspace: Workspace) -> dict[Any, dict[str, Any]]:
    file = partition(workspace.config.layout.recommendations, END)
    return {row["member_id"]: row for row in pq.ParquetFile(file).read().to_pylist()}


def test_each_active_member_has_the_list_that_the_service_would_rank(served: Workspace) -> None:
    rows = rows_of(served)
    events = pd.read_csv(served.root / "source" / "events.csv", parse_dates=["ts"])
    recent = events[events.ts >= (END - timedelta(days=28)).replace(tzinfo=None)]
    assert rows.keys() == {*recent.user_id}
    assert "members per second, by linear_v1" in served.said
    with Recommender(served.config, open_parts(served.config, served.store)) as recommender:
        for member in (3, 17):
            answer = recommender.now(Request(member, 2 * N))
            assert answer.path == "ranked"
            row = rows[member]
            assert row["ranker"] == "linear_v1"
            assert row["item_ids"] == [item.item_id for item in answer.items]
            scores = [item.score for item in answer.items]
            # Ages have grown by the seconds since.
            assert row["scores"] == pytest.approx(scores, abs=1e-3)
            assert row["event_timestamp"] == END
            assert row["created_timestamp"] <= datetime.now(UTC)


def test_many_members_score_as_one_by_one(served: Workspace) -> None:
    parts = open_parts(served.config, served.store)
    now, members = datetime.now(UTC), [3, 99_999, 17]
    found = [parts.sources.of(member) for member in members]
    assert isinstance(parts.scorer, Scoring)
    together = parts.scorer.of_many(members, found, now)
    for member, lists, scored in zip(members, found, together, strict=True):
        alone = parts.scorer.of(member, lists, now=now)
        assert scored.items.tolist() == alone.items.tolist()
        assert scored.scores == pytest.approx(alone.scores, abs=1e-5)
        assert (scored.sources, scored.ranker, scored.fits) == (
            alone.sources,
            alone.ranker,
            alone.fits,
        )
    nothing = parts.scorer.of_many([3, 17], [[], []], now)
    assert [len(each.items) for each in nothing] == [0, 0]
    parts.scorer.close()
    parts.sources.close()


def test_the_service_falls_back_on_them(served: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, rows = open_parts(served.config, served.store), rows_of(served)

    def away(_: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(parts.sources, "member", away)
    with Recommender(served.config, parts) as recommender:
        answer = recommender.of(Request(3))
        assert (answer.path, answer.ranker) == ("precomputed", "linear_v1")
        assert answer.fits["ranker"] == "linear_v1"
        assert [item.item_id for item in answer.items] == rows[3]["item_ids"][:N]
        without = recommender.of(Request(3, leave_out=rows[3]["item_ids"][:N]))
        assert [item.item_id for item in without.items] == rows[3]["item_ids"][N:]
        assert recommender.of(Request(99_999)).path == "popular"  # nobody made it a list


def test_a_rerun_makes_them_again(served: Workspace) -> None:
    before = rows_of(served)
    served.run(END)
    served.do("rankers", lambda stages: precompute(served.config, END, stages))
    after = rows_of(served)
    assert [*after] == [*before] == sorted(after)
    for who, row in after.items():
        assert row["item_ids"] == before[who]["item_ids"]
    same = [who for who in after if after[who]["scores"] == before[who]["scores"]]
    for who, row in after.items():
        stamps = before[who]["created_timestamp"], row["created_timestamp"]
        assert (stamps[0] == stamps[1]) == (who in same)
    assert not [*(served.config.layout.state / "aside").glob("*/*recommendations*")]


def test_a_damaged_ranker_leaves_the_order_to_the_votes(served: Workspace) -> None:
    (line,) = newest(served.config, ranker_lines(served.config))
    manifest = line.folder(served.config) / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"weights_sha256": "', '"weights_sha256": "0'))
    served.do("rankers", lambda stages: precompute(served.config, END, stages))
    assert {row["ranker"] for row in rows_of(served).values()} == {"votes"}
    assert "no ranker, the sources' votes order: " in served.said
    manifest.write_text(text)
    served.do("rankers", lambda stages: precompute(served.config, END, stages))
    assert {row["ranker"] for row in rows_of(served).values()} == {"linear_v1"}


def test_those_get_lists_who_acted_last(served: Workspace) -> None:
    events = pd.read_csv(served.root / "source" / "events.csv", parse_dates=["ts"])
    last = events[events.ts < END.replace(tzinfo=None)].groupby("user_id")["ts"].max()
    served.setting("precompute: 5000", "precompute: 3")
    with connect(served.config) as con:
        found = active_members(served.config, con, END)
    served.setting("precompute: 3", "precompute: 5000")
    assert found == sorted(last.nlargest(3).index)


def test_rules_without_a_request_hold(served: Workspace) -> None:
    """A boost decides what is kept; scores stay the ranker's, so that it counts once."""
    parts, now = open_parts(served.config, served.store), datetime.now(UTC)

    class Sources:
        def members(self, members: Any) -> Any:
            return parts.sources.members(members)  # type: ignore[attr-defined]

        def of(self, member: Any, known: Any) -> Any:
            return parts.sources.of(member, known)

    def made(**rules: Any) -> Scored:
        recommend = served.config.recommend.model_copy(
            update={"n": 2, "rules": served.config.recommend.rules.model_copy(update=rules)}
        )
        config = served.config.model_copy(update={"recommend": recommend})
        config._root = served.config._root
        (found,) = made_before(config, Sources(), parts.items, None, [member], now)  # type: ignore[arg-type]
        return found

    for member in range(MEMBERS):  # the first whose list has an item that it acted on
        plain, did = made(), set(parts.sources.member(member).items)
        if {*plain.items} & did:
            break
    assert {*plain.items} & did
    assert len(plain.items) == 4
    assert (np.diff(plain.scores) <= 0).all()
    long = timedelta(days=9_999)
    assert not {*made(leave_out_acted=long).items} & did
    assert made(explore=0.9, diversity=0.9).items.tolist() == plain.items.tolist()
    parts.sources.close()


def test_without_a_ranker_the_votes_order_and_0_makes_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    workspace = ready(tmp_path_factory.mktemp("votes"), precomputed=2)
    workspace.run(END)
    workspace.do("rankers", lambda stages: precompute(workspace.config, END, stages))
    rows = rows_of(workspace)
    assert [row["ranker"] for row in rows.values()] == ["votes"] * 2
    parts = open_parts(workspace.config, workspace.store)
    for member, row in rows.items():
        found = parts.lists.of(member)
        assert found is not None
        assert (found.items.tolist(), found.fits) == (row["item_ids"], {})
        assert found.scores.tolist() == row["scores"]
    parts.sources.close()
    workspace.setting("precompute: 2", "precompute: 0")
    workspace.do("rankers", lambda stages: precompute(workspace.config, END, stages))
    assert workspace.said == ""
    assert isinstance(lists_of(workspace.config, parts.sources), NoLists)  # type: ignore[arg-type]
    workspace.run(END)
    assert RECOMMENDATIONS_VIEW not in {v.name for v in workspace.store.list_feature_views()}
    workspace.setting("precompute: 0", "precompute: 9")
    parts = open_parts(workspace.config, workspace.store)  # no run has registered the view yet
    assert isinstance(parts.lists, NoLists)
    parts.sources.close()


def test_a_list_that_breaks_a_rule_is_not_put_in_place(served: Workspace) -> None:
    before = rows_of(served)
    twice = Scored(as_ids(["g-1", "g-1"]), np.array([2.0, 1.0], np.float32), [{}, {}])
    with (
        connect(served.config) as con,
        pytest.raises(RunFailedError, match="distinct and not null"),
    ):
        write_lists(served.config, con, END, END, [([3], [twice])])
    assert rows_of(served) == before
    later, none = END + DAY, Scored(as_ids([]), np.zeros(0, np.float32), [])
    with connect(served.config) as con:
        assert write_lists(served.config, con, later, later, [([3], [none]), ([], [])]) == 0
    assert not partition(served.config.layout.recommendations, later).exists()
