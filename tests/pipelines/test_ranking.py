"""Rankers of a workspace: fitted on what could be read at the time, served from what is online."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from models.lines import ranker_lines
from models.rankers.inputs import Columns, Inputs, Labelled
from models.rankers.item_categories import items_known, read_categories
from models.rankers.lines import Linear
from models.rankers.package import load
from models.rankers.reading import Needs
from models.rankers.spec import Ranker
from operations.fits import embedded_lines
from operations.rankers import newest
from pipelines.cli import app as cli
from pipelines.ranking.dataset import Known
from pipelines.ranking.examples import Pairs
from pipelines.ranking.labels import Labels, label_weights, read_labels
from pipelines.ranking.shown import shown_labels
from pipelines.ranking.skew import above, skews
from pipelines.ranking.train import Examples, examples_of, judged, readable_since, train_rankers
from serving.recommend.asked import Request
from serving.recommend.candidates import Candidates
from serving.recommend.input_log import InputLog
from serving.recommend.parts import open_parts
from serving.recommend.recommend import Recommender
from serving.recommend.scored import merged
from serving.recommend.scoring import Scoring, open_scoring
from serving.request.sequences import Event
from serving.request.vectors import RequestTime
from serving.stream.bus.messages import decode, encode
from serving.stream.updater import open_updater
from tests.pipelines.test_candidates import CANDIDATES, DECAY, ENCODERS, KEPT_SMALL
from tests.pipelines.test_impressions import Row, write_shown
from tests.pipelines.test_item_spaces import market
from tests.worlds.workspace import AVERAGE, DAY, END, Workspace
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError, TooFewError
from transformations.layout import partition
from transformations.timestamps import microseconds
from transformations.train_settings import TrainSettings

RANKERS = (
    'Linear(version=1, aggregators=("decay_v1", "small_v1"), labels=400)',
    'BoostedTrees(version=1, aggregators=("decay_v1",), trees=5, min_rows=2, labels=400)',
)
PROFILES = (
    "members: {source: source/people.csv, categorical: [zone], available_at: since, "
    "time_zone: zone}"
)
PEOPLE = f"""member_id,zone,since
3,Asia/Tokyo,2020-01-01
3,America/New_York,{END - DAY:%Y-%m-%d}
17,nowhere,2020-01-01
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("ranking"), AVERAGE, holdback=5)
    workspace.setting("dim: 3", f"dim: 3\n{PROFILES}")
    (workspace.root / "source" / "people.csv").write_text(PEOPLE)
    workspace.lines(
        *(AVERAGE, DECAY, KEPT_SMALL), encoders=ENCODERS, candidates=CANDIDATES, rankers=RANKERS
    )
    workspace.run(END)
    workspace.backfill(*(END - back * DAY for back in range(5, 0, -1)))
    workspace.do("rankers", lambda stages: train_rankers(workspace.config, END, stages))
    return workspace


@pytest.fixture
def scoring(served: Workspace) -> Iterator[Scoring]:
    scoring = open_scoring(served.config, served.store)
    assert scoring is not None
    yield scoring
    scoring.close()


def test_each_line_is_fitted_once_and_packaged(served: Workspace) -> None:
    lines = newest(served.config, ranker_lines(served.config))
    assert [str(line) for line in lines] == ["linear_v1", "boosted_trees_v1"]
    for line in lines:
        manifest = load(served.config, line).manifest
        assert manifest["trained_until"] == END.isoformat()
        assert manifest["fits"]["decay_v1"]["view"] == "member_activity_decay_v1"
        assert manifest["metrics"]["first"] > 0
        assert manifest["candidates"][0] == "popular_popular_v1"
        service = served.store.get_feature_service(f"recommend_{line}")
        views = {projection.name for projection in service.feature_view_projections}
        assert {"member_activity_sequence", "member_activity_decay_v1", "item_stats_v1"} <= views
    served.do("rankers", lambda stages: train_rankers(served.config, END, stages))
    assert newest(served.config, ranker_lines(served.config)) == lines


def joined_and_served(served: Workspace, scoring: Scoring, member: int) -> list[Inputs]:
    """A member's candidates as a ranker sees them: by a training join as of now, and online."""
    config, now = served.config, datetime.now(UTC)
    candidates = Candidates(config, served.store)
    found = [each for each in candidates.of(member) if len(each.items)]
    candidates.close()
    items = np.array(list(merged(found)), object)
    at = np.array([microseconds(now)], np.int64)
    labels = Labels(np.array([member]), items[:1], np.array(["play"]), np.array([1], np.int32), at)
    with connect(config) as con:
        items_known(config, con)
        known = Known.of(config, served.store, scoring.needs, read_categories(con))
        members = known.members(labels, known.read(labels))
        brought = known.candidates(con, labels, known.read(labels), members)
    every = np.zeros(len(items), np.int64)
    pairs = Pairs(every, items, np.arange(len(items)) == 0)
    heads = scoring.ranker.heads
    joined = known.labelled(labels, members, pairs, brought, heads).inputs
    online, _ = scoring.inputs(member, found, items, {}, now)
    return [joined, online]


@pytest.mark.parametrize("member", [3, 17, 99_999])
def test_training_and_serving_see_the_same(
    served: Workspace, scoring: Scoring, member: int
) -> None:
    joined, online = joined_and_served(served, scoring, member)
    assert joined.names("numbers") == online.names("numbers")
    assert joined.names("vectors") == online.names("vectors")
    for name in joined.names("numbers"):
        assert online.number(name) == pytest.approx(
            joined.number(name), nan_ok=True, rel=1e-4, abs=1e-3
        ), name
    for name in joined.names("categories"):
        assert joined.category(name).tolist() == online.category(name).tolist(), name
    for name in joined.names("vectors"):
        assert online.vector(name) == pytest.approx(joined.vector(name), abs=1e-6), name
    fitted = scoring.ranker.fitted
    assert fitted.scores(online) == pytest.approx(fitted.scores(joined), abs=1e-4)


def test_a_label_sees_nothing_that_could_not_be_read_then(
    served: Workspace, scoring: Scoring
) -> None:
    """A day's snapshot is readable after publish_delay; before the first one there is nothing."""
    config = served.config
    first = END - 5 * DAY + config.publish_delay
    at = np.array([microseconds(first - timedelta(minutes=1)), microseconds(first)], np.int64)
    labels = Labels(
        np.array([3, 3]), np.array(["g-1", "g-1"], object), np.array(["play"] * 2),
        np.ones(2, np.int32), at,
    )  # fmt: skip
    with connect(config) as con:
        items_known(config, con)
        known = Known.of(config, served.store, scoring.needs, read_categories(con))
    members = known.members(labels, known.read(labels))
    assert members.actions.there.any(axis=1).tolist() == [False, True]
    assert (members.columns.vectors["member.decay_v1.play"] != 0).any(axis=1).tolist() == [
        False,
        True,
    ]


def test_a_label_has_the_clock_of_its_member_then(served: Workspace, scoring: Scoring) -> None:
    """By the profile that was known; UTC where that names no zone, or there is none.

    And what is known of the request.
    """
    noon = {"before": END - 2 * DAY + DAY / 2, "after": END - DAY + DAY / 2}
    asked = [(3, "before"), (3, "after"), (17, "after"), (99_999, "after")]
    count = len(asked)
    labels = Labels(
        np.array([member for member, _ in asked]),
        np.array(["g-1"] * count, object),
        np.array(["play"] * count),
        np.ones(count, np.int32),
        np.array([microseconds(noon[when]) for _, when in asked], np.int64),
        {"surface": np.array(["home", None, "mail", None], object)},
    )
    needs = replace(scoring.needs, context={"surface": "category", "shift": "number"})
    with connect(served.config) as con:
        items_known(served.config, con)
        known = Known.of(served.config, served.store, needs, read_categories(con))
    columns = known.members(labels, known.read(labels)).columns
    surfaces = columns.categories["member.context_surface"]
    assert surfaces.tolist() == ["home", None, "mail", None]
    assert np.isnan(columns.numbers["member.context_shift"]).all()
    numbers = columns.numbers
    hours = np.arctan2(numbers["member.hour_sin"], numbers["member.hour_cos"]) / np.pi * 12 % 24
    behind = noon["after"].astimezone(ZoneInfo("America/New_York")).hour
    assert hours == pytest.approx([21, behind, 12, 12], abs=1e-3)
    assert behind < 12


def test_no_label_is_from_before_the_first_snapshot_that_could_be_read(served: Workspace) -> None:
    """Nothing was known of its member then: a ranker would learn from items alone."""
    delay = served.config.publish_delay
    assert readable_since(served.config, END) == END - 5 * DAY + delay
    line = Linear(version=1, aggregators=("decay_v1",), learns_from="actions")
    made: list[Examples] = []
    served.do("pairs", lambda stages: made.append(examples_of(served.config, line, END, stages)))
    assert made[0].times.min() >= microseconds(END - 5 * DAY + delay)
    few = replace(line, days=2)
    with pytest.raises(TooFewError, match=r"at least 50 positive actions from 2026-03-08 to"):
        served.do("pairs", lambda stages: examples_of(served.config, few, END, stages))
    known = made[0].train.inputs.members.numbers["member.n_actions"]
    assert (known > 0).any()


def test_labels_weigh_what_the_configuration_says(served: Workspace) -> None:
    """All pairs of a label alike; of what was shown times 1 / propensity."""
    weight = TrainSettings(weight="member_actions / 30 / action_share")
    config = served.config.model_copy(update={"train": weight})
    line = Linear(version=1, aggregators=("decay_v1",), labels=10**9, learns_from="actions")
    since = readable_since(config, END)

    def weights(line: Ranker) -> np.ndarray:
        """Of each pair the label, and how much it counts: float64 [pairs, 2]."""
        made: list[Examples] = []
        served.do("pairs", lambda stages: made.append(examples_of(config, line, END, stages)))
        (examples,) = made
        first = int(examples.train.groups.max()) + 1
        groups = [*examples.train.groups, *(examples.validation.groups + first)]
        every = [*examples.train.weights, *examples.validation.weights]
        assert groups[-1] == len(examples.times) - 1
        return np.column_stack([groups, every])

    with connect(config) as con:
        labels = read_labels(config, con, since, END, 10**9)
        factors = label_weights(config, con, labels, END)
    assert len({*factors.tolist()}) > 1
    drawn = weights(line)
    assert len(drawn) > len(labels)  # negatives weigh as the label that they were drawn for
    assert drawn[:, 1] == pytest.approx(factors[drawn[:, 0].astype(int)])
    rows = [
        Row(f"r{n}", labels.members[n], item, at - timedelta(seconds=1), place, propensity)
        for n, at in enumerate(labels.timestamps.to_pydatetime())
        if at - timedelta(seconds=1) >= since
        for place, (item, propensity) in enumerate([(labels.items[n], 0.5), ("g-0", None)])
    ]
    write_shown(config, rows)
    try:
        with connect(config) as con:
            shown = shown_labels(config, con, since, END, 10**9)
            assert shown is not None
            factors = label_weights(config, con, shown.labels, END)
        assert {*shown.weights.tolist()} == {2.0, 1.0}
        of_pairs = factors[shown.pairs.labels] * shown.weights
        expected = np.column_stack([shown.pairs.labels, of_pairs])
        assert weights(replace(line, learns_from="shown")) == pytest.approx(expected)
    finally:
        shutil.rmtree(config.layout.impressions)


def test_labels_are_a_members_first_actions_before_the_end(served: Workspace) -> None:
    with connect(served.config) as con:
        labels = read_labels(served.config, con, END - 5 * DAY, END, 10**9)
        some = read_labels(served.config, con, END - 5 * DAY, END, 20)
    assert 0 < len(some) < len(labels)
    assert {*some.members.tolist()} < {*labels.members.tolist()}
    pairs = [*zip(labels.members.tolist(), labels.items.tolist(), strict=True)]
    assert len(pairs) == len({*pairs})
    assert (np.diff(labels.times) >= 0).all()
    assert labels.times.min() >= microseconds(END - 5 * DAY)
    assert labels.times.max() < microseconds(END)
    with (
        connect(served.config) as con,
        pytest.raises(InputError, match="actions with a sign from 2001-01-01"),
    ):
        read_labels(
            served.config,
            con,
            datetime(2001, 1, 1, tzinfo=UTC),
            datetime(2001, 1, 2, tzinfo=UTC),
            9,
        )


def test_an_action_that_no_store_has_counts(served: Workspace, scoring: Scoring) -> None:
    now = datetime.now(UTC)
    event = Event("99999", "g-1", "play", now - timedelta(minutes=1))
    items = np.array(["g-1"], object)
    member = scoring.inputs(99_999, [], items, {}, now, [event])[0].number("pair.seen")
    nobody = scoring.inputs(99_999, [], items, {}, now)[0].number("pair.seen")
    assert (member.tolist(), nobody.tolist()) == ([1.0], [0.0])


@pytest.mark.parametrize("member", [5, 99_998])
def test_a_requests_actions_make_what_the_stream_would_write(
    served: Workspace, member: int
) -> None:
    """Statistics, counts, history and vectors: before the stream has had them, and after."""
    config, store, now = served.config, served.store, END + timedelta(hours=1)
    events = [
        Event(member, item, "play", now - timedelta(minutes=minutes))
        for item, minutes in (("g-1", 50), ("g-2", 49), ("g-2", 10))
    ]
    items = np.array(["g-1", "g-2", "g-9"], object)
    with RequestTime(config, store) as requests:
        scoring, alone = open_scoring(config, store, requests), open_scoring(config, store)
        assert scoring is not None
        assert alone is not None
        known, _ = scoring.inputs(member, [], items, {}, now)
        asked, _ = scoring.inputs(member, [], items, {}, now, events)
        without, _ = alone.inputs(member, [], items, {}, now, events)
        updater = open_updater(config, store, embedded_lines(config), "worker", lambda: now)
        updater.seeding = True  # nothing was streamed before
        snapshot = pq.ParquetFile(partition(config.layout.sequences, END)).read()
        updater.seed(snapshot.combine_chunks().to_batches()[0], END)
        messages = [encode(e.member_id, e.item_id, e.action, e.event_timestamp) for e in events]
        updater.apply([decode(config.rules, message, now) for message in messages])
        updater.log.close()
        updater.states.close()
        streamed, _ = scoring.inputs(member, [], items, {}, now)
        scoring.close()
        alone.close()
    for name in streamed.names("numbers"):
        is_match = name.startswith("pair.match")  # of vectors that are kept as int8, too
        tolerance = {"abs": 1e-2} if is_match else {"rel": 1e-6}
        expected = pytest.approx(streamed.number(name), nan_ok=True, **tolerance)
        assert asked.number(name) == expected, name
        assert is_match or without.number(name) == expected, name
    for name, more in (("member.n_sessions", 2), ("member.n_play", 3)):
        assert asked.number(name)[0] == np.nan_to_num(known.number(name)[0]) + more
    for name in streamed.names("vectors"):
        assert asked.vector(name) == pytest.approx(streamed.vector(name), abs=1e-2), name


def test_the_command_makes_the_next_fit_and_recommends_by_it(served: Workspace) -> None:
    runner, where = CliRunner(), ["--config", str(served.root)]
    trained = runner.invoke(cli.app, ["train", "ranker", "linear", *where])
    assert trained.exit_code == 0, trained.output
    assert "linear_v1_f2" in trained.output
    shown = runner.invoke(cli.app, ["recommend", "3", "--n", "4", *where])
    assert shown.exit_code == 0, shown.output
    assert "Recommendations, ordered by linear_v1_f2" in shown.output
    assert re.search(r"like g-\d+ \(play\)", shown.output)
    wrong = runner.invoke(cli.app, ["train", "ranker", "deep", *where])
    assert isinstance(wrong.exception, InputError)
    assert "linear_v1" in str(wrong.exception)


def test_a_damaged_ranker_leaves_the_order_to_votes(
    served: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    (line, *_) = newest(served.config, ranker_lines(served.config))
    files = [file for file in line.folder(served.config).iterdir() if file.name != "manifest.json"]
    kept = files[0].read_bytes()
    files[0].write_bytes(kept[:-1])
    try:
        with Recommender(served.config, open_parts(served.config, served.store)) as recommender:
            assert recommender.now(Request(3, 5)).path == "votes"
        assert "does not hold the files that were packaged" in caplog.text
    finally:
        files[0].write_bytes(kept)
    with Recommender(served.config, open_parts(served.config, served.store)) as recommender:
        answer = recommender.now(Request(3, 5))
    assert (answer.path, answer.ranker) == ("ranked", str(line))
    assert answer.fits["decay_v1"] == "member_activity_decay_v1"


def test_too_few_labels_are_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("few") / "w")
    workspace.lines(AVERAGE, candidates=CANDIDATES[:1], rankers=("Linear(version=1)",))
    workspace.run(END)
    workspace.do("rankers", lambda stages: train_rankers(workspace.config, END, stages))
    assert "linear_v1 is not trained: expected a snapshot that could be read" in workspace.said
    workspace.backfill(END - 3 * DAY)
    workspace.do("rankers", lambda stages: train_rankers(workspace.config, END, stages))
    assert "linear_v1 is not trained: expected actions with a sign from" in workspace.said
    assert open_scoring(workspace.config, workspace.store) is None


def test_a_fit_is_judged_by_what_was_liked_and_ties_share_a_place() -> None:
    """Groups: liked among lower ones; liked beside an equal one; disliked; liked alone."""
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    scores = np.array([0.9, 0.1, 0.2, 0.5, 0.5, 0.9, 0.1, 0.3], np.float32)
    targets = np.zeros((8, 2), np.float32)
    targets[[0, 3, 7], 0], targets[5, 1] = 1.0, 1.0
    inputs = Inputs(Columns(), Columns(), Columns(), groups, groups)
    pairs = Labelled(inputs, targets, np.ones(8, np.float32), groups, np.full(8, -1))
    fitted: Any = SimpleNamespace(
        scores=lambda _: scores, probabilities=lambda _: np.stack([scores, 1 - scores], axis=1)
    )
    assert judged(fitted, pairs, {"APPLY": 1.0, "DISMISS": -1.0})["first"] == 0.75


def test_needs_survive_json() -> None:
    noted = {
        "vectors": [
            {
                "line": "decay_v1",
                "view": "v",
                "fields": {"member.decay_v1": "activity_embedding"},
                "space": "s_v1",
                "item_view": "i",
                "similarity": "dot",
                "dim": 3,
            }
        ],
        "members": {"member.a": ["view", "a", "number"]},
        "items": {},
        "counts": ["n_actions"],
        "context": {"surface": "category"},
        "groups": ["ids"],
        "sources": [],
    }
    needs = Needs.read(noted)
    assert Needs.read(needs.noted()) == needs
    assert needs.time_zone is None  # of a package that was made before there were zones
    own = replace(needs, time_zone=("view", "a"))
    assert Needs.read(json.loads(json.dumps(own.noted()))) == own
    assert own.of_views == needs.of_views  # what is read once serves both
    assert needs.members["member.a"] == ("view", "a", "number")


def test_what_was_served_is_what_training_would_read(served: Workspace) -> None:
    """Of real answers nothing differs; a number and a vector that do are found."""
    config, store = served.config, served.store
    log = InputLog(config, store, draw=lambda: 0.0)
    before = datetime.now(UTC)
    parts = open_parts(config, store)
    with Recommender(config, parts, log=log) as recommender:
        for member in (3, 17, 99_999):
            assert recommender.now(Request(member)).path == "ranked"
        event = Event("17", "g-1", "play", before - timedelta(minutes=1))
        recommender.now(Request(17, events=[event]))  # no store has it: not logged
    (file,) = config.layout.logged_features.glob("*/*.parquet")
    table = pq.ParquetFile(file).read()
    assert {*table["member_id"].to_pylist()} == {3, 17, 99_999}
    after = datetime.now(UTC)
    with connect(config) as con:
        found = skews(config, store, con, before, after)
        assert not skews(config, store, con, after, after)
    service = store.get_feature_service(f"recommend_{file.parent.name}")
    projections = service.feature_view_projections
    assert {skew.column for skew in found} == {
        f"{projection.name}__{field.name}"
        for projection in projections
        for field in projection.features
    }
    assert {skew.pairs for skew in found} == {len(table)}
    assert above(found, 1e-4) == []
    vector, number = "member_activity_decay_v1__play_embedding", "item_stats_v1__popularity_rank"
    off = {
        number: pa.array(table[number].to_numpy() * 2),
        vector: pa.array(
            [row and [-x for x in row] for row in table[vector].to_pylist()], table[vector].type
        ),
    }
    for name, column in off.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, file)
    with connect(config) as con:
        wrong = above(skews(config, store, con, before, after), 1e-3)
    assert {skew.column for skew in wrong} == {number, vector}
    result = CliRunner().invoke(cli.app, ["skew", "--config", str(served.root)])
    assert isinstance(result.exception, RunFailedError)
    assert "2 of" in str(result.exception)
    assert number in result.output
    fine = CliRunner().invoke(cli.app, ["skew", "--bound", "2", "--config", str(served.root)])
    assert fine.exit_code == 0, fine.output
    file.unlink()
    nothing = CliRunner().invoke(cli.app, ["skew", "--config", str(served.root)])
    assert "recommend.log_features" in str(nothing.exception)
