"""A line that predicts courses from job actions, and reads signs and attributes: to serving."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.inputs import Category, Inputs, Number
from models.items.corpus import behaviour_before, corpus_at
from models.items.saved import saved
from models.lines import candidate_lines, catalogue_lines
from models.packaging import load
from models.rankers.history import Actions
from models.spec import Cnn
from operations.fits import current_lines
from pipelines.evaluation.evaluate import chosen_lines, evaluate
from pipelines.evaluation.labels import positive_times, read_data
from pipelines.evaluation.protocol import LIVE, Protocol
from pipelines.evaluation.world import open_world
from pipelines.progress import Stages
from pipelines.ranking.candidates import candidates_at
from pipelines.ranking.labels import Labels
from serving.recommend.candidates import Candidates
from serving.request.vectors import RequestTime
from tests.worlds.workspace import END, Workspace
from transformations.duck import connect
from transformations.errors import InputError
from transformations.names import Space
from transformations.timestamps import microseconds

LINE = (
    'LearnedDecay(version=1, reads=("play", "view"), predicts=("enroll",), signs=True, '
    'attributes=("dwell", "seen_on"), recipe=Recipe(epochs=2, refit=False, negatives=8, '
    "learning_rate=0.1, validation=timedelta(days=4), examples=ExampleSettings(min_actions=1)))"
)
NEAREST = ('NearestToMember(aggregator="learned_decay_v1", version=1)',)
COURSES = 40
IMPORTS = """
from models.training.recipe import Recipe
from transformations.example_settings import ExampleSettings
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Every third action is an enroll on a course, the others are on jobs."""
    workspace = Workspace(tmp_path)
    workspace.setting(
        "actions: {play: positive, dismiss: negative}",
        "actions:\n"
        "  play: {sign: positive, item_kind: job}\n"
        "  view: {positive_if: dwell >= 30, negative_if: dwell < 5}\n"
        "  enroll: {sign: positive, item_kind: course}",
    )
    workspace.setting(
        "item_id_type: string",
        "  attributes:\n    dwell: {type: number}\n    seen_on: {type: category}\n"
        "item_id_type: string\nmin_positives: 5",
    )
    workspace.setting("text: [title]", "text: [title], kind: kind")
    source = tmp_path / "source"
    rows = []
    for n in range(240):
        # Each enroll is on a course that is new to its member.
        action, item = (
            ("enroll", f"c-{n // 3 % COURSES}"),
            ("play", f"g-{n % 6}"),
            ("view", f"g-{n % 5}"),
        )[n % 3]
        dwell = "" if n % 4 == 0 else str(n % 60)
        at = END - timedelta(hours=3 * n + 1)
        rows.append(f"{n % 7},{item},{action},{at:%Y-%m-%d %H:%M:%S},{dwell},{'ab'[n % 2]}")
    head = "user_id,product,event_type,ts,dwell,seen_on"
    (source / "events.csv").write_text("\n".join([head, *rows]) + "\n")
    animals = ("fish", "bird", "horse", "mouse", "snake", "whale")
    jobs = [f"g-{n},red {animal},job" for n, animal in enumerate(animals)]
    courses = [f"c-{n},green {animals[n % 4]},course" for n in range(COURSES)]
    (source / "items.csv").write_text("\n".join(["product,title,kind", *jobs, *courses]) + "\n")
    workspace.lines(LINE, candidates=NEAREST)
    catalogue = tmp_path / "catalog.py"
    catalogue.write_text(IMPORTS + catalogue.read_text())
    return workspace


def test_it_trains_serves_and_is_the_same_at_request_time(workspace: Workspace) -> None:
    workspace.run(END)

    (line,) = current_lines(workspace.config)
    manifest = line.manifest(workspace.config)
    further = Inputs.of_manifest(manifest)
    assert further.signs
    dwell, seen_on = further.attributes["dwell"], further.attributes["seen_on"]
    assert isinstance(dwell, Number)
    assert 20 < dwell.mean < 40
    assert seen_on == Category(("a", "b"))
    assert manifest["predicts"] == ["enroll"]

    online = workspace.online(line.service)
    served = RequestTime(workspace.config, workspace.store)
    # What it learned about them is not nothing, or the rest would be equal without them too.
    (gate,) = [w for w in load(line, workspace.config).saved.weights if w.shape == (2, 8)]
    assert (np.abs(gate.numpy()).max(axis=0) > 1e-5).sum() >= 5
    embedded = served.embed([3], as_of=END)
    np.testing.assert_allclose(
        online["activity_embedding"],
        embedded.vectors[line.view]["activity_embedding"][0],
        rtol=1e-5,
        atol=1e-6,
    )

    # It matches courses; a job is compared with nothing, online and in a training join.
    asked = {"member_id": [3, 3], "item_id": ["c-1", "g-1"]}
    service = workspace.store.get_feature_service(line.service)
    matched = workspace.store.get_online_features(
        features=service, entity_rows=pd.DataFrame(asked).to_dict("records")
    ).to_dict()
    assert matched["kind"] == ["course", "job"]
    assert matched["cosine"][0] != 0.0
    assert matched["cosine"][1] == matched["dot"][1] == 0.0
    joined = workspace.store.get_historical_features(
        entity_df=pd.DataFrame(asked | {"event_timestamp": END + timedelta(seconds=1)}),
        features=service,
    ).to_df()
    np.testing.assert_allclose(joined.sort_values("item_id")["cosine"], matched["cosine"], 1e-5)

    # Nor is a job a candidate, online and for a ranker that learns.
    candidates = Candidates(workspace.config, workspace.store)
    (found,) = candidates.of(3)
    candidates.close()
    assert len(found.items) == COURSES
    assert {item[:2] for item in found.items} == {"c-"}
    at = np.array([microseconds(END + timedelta(seconds=1))], np.int64)
    one, none = np.ones(1, np.int32), np.zeros((1, 1), np.int64)
    label = Labels(np.array([3]), np.array(["c-1"], object), np.array(["enroll"]), one, at)
    with connect(workspace.config) as con:
        then = candidates_at(
            workspace.config,
            con,
            workspace.store,
            candidate_lines(workspace.config),
            label,
            Actions(none.astype(object), none > 0, none.astype(np.int32), none),
            {"learned_decay_v1": [np.float32([online["activity_embedding"]])]},
            {"learned_decay_v1": line},
        )
    assert then["nearest_to_member_learned_decay_v1"][0].tolist() == found.items.tolist()


def test_an_encoder_that_predicts_knows_its_candidates(workspace: Workspace) -> None:
    workspace.lines("Average(version=1)")
    workspace.run(END)
    with connect(workspace.config) as con:
        con.execute(f"create temp view stg_items as from '{workspace.config.layout.staged_items}'")
        corpus, everything, nothing = (
            corpus_at(workspace.config, con, END, with_activity=False, predicts=predicts)
            for predicts in (("enroll",), (), ("view",))
        )
    assert corpus.ids is not None
    assert corpus.candidates is not None
    are_courses = [item.startswith("c-") for item in corpus.ids.to_pylist()]
    assert corpus.candidates.tolist() == are_courses
    assert sum(are_courses) == COURSES < len(corpus)
    assert everything.candidates is None
    # A view is on items of any kind.
    assert nothing.candidates is not None
    assert nothing.candidates.all()


def test_an_encoder_is_fitted_with_the_number_that_it_reads(workspace: Workspace) -> None:
    spaces = ("Factors(version=1)", 'Factors(version=2, confidence_by="dwell")')
    workspace.lines(
        'Average(version=1, items="factors_v1")',
        'Average(version=2, items="factors_v2")',
        encoders=spaces,
    )
    workspace.run(END)
    plain, weighed = (
        saved(workspace.config.in_space(Space("factors", version, 1))) for version in (1, 2)
    )
    assert plain is not None
    assert weighed is not None
    assert plain.to_bytes() != weighed.to_bytes()
    with connect(workspace.config) as con:
        behaviour, without = (
            behaviour_before(workspace.config, con, END, number) for number in ("dwell", "")
        )
        with pytest.raises(InputError, match=r"expected a number .*\(dwell\), got 'seen_on'"):
            behaviour_before(workspace.config, con, END, "seen_on")
    assert without.numbers is None
    assert behaviour.numbers is not None
    ago = (END.timestamp() * 1e6 - behaviour.timestamps) / 3.6e9  # hours
    n = np.round((ago - 1) / 3).astype(int)
    np.testing.assert_array_equal(behaviour.numbers, np.where(n % 4 == 0, np.nan, n % 60))
    assert len(behaviour) == 240
    later = behaviour.take(behaviour.codes > 1)
    assert later.numbers is not None
    assert len(later.numbers) == len(later)


def test_it_is_evaluated_on_items_of_the_kind_that_it_predicts(workspace: Workspace) -> None:
    workspace.run(END)
    protocol = Protocol(
        freshness=(LIVE,),
        seeds=1,
        resamples=20,
        decays=(0.8,),
        l2=(1e-3,),
        predicts=("enroll",),
        without=("ease", "als", "sasrec"),
    )
    lines = chosen_lines(catalogue_lines(workspace.config), (), protocol.predicts)

    def work(stages: Stages) -> None:
        evaluate(workspace.config, stages, protocol, "activity evaluate", lines)

    workspace.do("evaluate", work)
    with connect(workspace.config) as con:
        times = positive_times(workspace.config, con, protocol.predicts)
        world = open_world(workspace.config, "test", times, protocol)
        data = read_data(world, con, protocol)
    period = data.periods["test"]
    assert set(period.frame["action"]) == {"enroll"}  # views that are disliked are of jobs
    assert period.frame.loc[period.frame["positive"], "item_id"].str.startswith("c-").all()
    known = data.item_days.known(int(period.task.labels.days.max()))
    assert known.sum() == COURSES
    result = json.loads((workspace.config.data / "evaluation" / "result.json").read_text())
    assert {variant["name"] for variant in result["variants"]} >= {"learned_decay"}


def test_lines_that_predict_something_else_are_not_compared(workspace: Workspace) -> None:
    lines = catalogue_lines(workspace.config)
    assert chosen_lines(lines, ()) == []
    (also,) = chosen_lines((), ("cnn",), ("enroll",))
    assert isinstance(also, Cnn)
    assert also.predicts == ("enroll",)
