"""What is declared, that `feast apply` alone registers it, and the match function."""

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.match import activity_match, match_of
from feature_repo.views import declare
from models.catalog import AGGREGATORS
from models.items.similarity import comparable
from models.spec import Average, GeometricDecay, LearnedDecay
from stores.asof.coverage import MAX_AGE_TAG
from tests.worlds.applied import World
from tests.worlds.clone import Clone
from transformations.config import ROOT, Config, Members
from transformations.names import (
    ITEM_STATS_VIEW,
    MEMBER_STATS_VIEW,
    PROFILE_VIEW,
    SEQUENCE_VIEW,
)
from transformations.stats.columns import (
    item_stats_columns,
    member_stats_columns,
    profile_columns,
)


@pytest.fixture
def config(tmp_path) -> Config:
    return shipped(World(tmp_path).config)


def shipped(config: Config) -> Config:
    """Return it with the lines of the repository's own catalogue."""
    config._root = ROOT
    return config


def named(objects, kind):
    return {o.name: o for o in objects if type(o) is kind}


def test_one_view_one_match_one_service_per_aggregator(config):
    lines = [Average(version=1), GeometricDecay(version=1, decay=0.8), LearnedDecay(version=1)]
    objects = declare(config, lines)
    assert set(named(objects, Entity)) == {"member", "item", "segment"}
    assert set(named(objects, FeatureView)) == {
        "item_embedding_tfidf_svd_v1",
        "item_stats_v1",
        "member_activity_sequence",
        "member_activity_stats_v1",
        "member_activity_average_v1",
        "member_activity_decay_v1",
        "member_activity_learned_decay_v1",
        "member_recommendations_v1",
        "popular_items_popular_v1",
        "popular_items_new_v1",  # neighbours need a space that a run has made
    }
    assert set(named(objects, OnDemandFeatureView)) == {
        "activity_match_average_v1",
        "activity_match_decay_v1",
        "activity_match_learned_decay_v1",
    }
    assert set(named(objects, FeatureService)) == {
        "ranker_average_v1",
        "ranker_decay_v1",
        "ranker_learned_decay_v1",
    }


def test_everything_says_what_it_is_and_whose(config):
    for o in declare(config):
        assert o.description, o.name
        assert o.owner, o.name
        if o.name.endswith("_v1"):
            assert o.tags, o.name
    view = named(declare(config), FeatureView)["member_activity_decay_v1"]
    assert view.tags == {
        "aggregator": "decay",
        "aggregator_version": "1",
        "aggregator_fit": "1",
        "item_encoder": "tfidf_svd",
        "item_encoder_version": "1",
        "item_encoder_fit": "1",
        MAX_AGE_TAG: str(30 * 3_600),  # a day, and six hours until it is published
    }


def test_types_of_a_view(config):
    view = named(declare(config), FeatureView)["member_activity_decay_v1"]
    assert {f.name: f.dtype for f in view.features} == {
        "apply_embedding": Array(Float32),
        "save_embedding": Array(Float32),
        "dismiss_embedding": Array(Float32),
        "stored_n_actions": Int64,
        "stored_n_apply": Int64,
        "stored_n_save": Int64,
        "stored_n_dismiss": Int64,
        "last_action_at": UnixTimestamp,
        "model_version": String,
    }
    assert {f.vector_length for f in view.features if f.name.endswith("_embedding")} == {4}
    assert view.batch_source.created_timestamp_column == "created_timestamp"
    assert Path(view.batch_source.path) == config.layout.embeddings(view.name)


@pytest.mark.parametrize(
    ("id_type", "value_type", "list_type"),
    [("int64", ValueType.INT64, Array(Int64)), ("string", ValueType.STRING, Array(String))],
)
def test_ids_have_the_configured_type(tmp_path, id_type, value_type, list_type):
    objects = declare(shipped(World(tmp_path, id_type=id_type).config))
    entities = named(objects, Entity)
    assert {entities[name].value_type for name in ("member", "item")} == {value_type}
    popular = named(objects, FeatureView)["popular_items_popular_v1"]
    assert {f.name: f.dtype for f in popular.features}["item_ids"] == list_type
    sequence = named(objects, FeatureView)[SEQUENCE_VIEW]
    assert {f.name: f.dtype for f in sequence.features}["item_ids"] == list_type


def test_a_single_vector_is_matched_as_cosine_and_dot(config):
    class Single(Average):
        per_action = False

    objects = declare(config, [Single(name="single", version=3)])
    match = named(objects, OnDemandFeatureView)
    names = [f.name for f in match["activity_match_single_v3"].features]
    assert names == ["n_actions", "n_apply", "n_save", "n_dismiss", "cosine", "dot"]


def test_importing_the_definitions_binds_all_and_loads_no_tensorflow(tmp_path, config):
    clone = Clone(tmp_path / "clone")
    printed = clone.python(
        "import sys\nfrom feature_repo import definitions as d\n"
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)\n"
        "bound = vars(d).items()\n"
        "print(sorted(v.name for n, v in bound if n.startswith(type(v).__name__ + '_')))"
    )
    project = clone_project(clone)
    assert printed.strip() == repr(sorted([project, *(o.name for o in declare(config))]))


def clone_project(clone: Clone) -> str:
    settings = yaml.safe_load((clone.root / "feature_store.yaml").read_text())
    return str(settings["project"])


def feast_apply(clone: Clone) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("feast"), "apply"],
        cwd=clone.root,
        env=clone.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What the registry holds, without the times at which it was written.
REGISTERED = """
import json
from google.protobuf.json_format import MessageToDict
from feast import FeatureStore
store = FeatureStore(".")
kinds = store.list_entities, store.list_feature_views, store.list_on_demand_feature_views
objects = [o for kind in (*kinds, store.list_feature_services) for o in kind()]
specs = {o.name: MessageToDict(o.to_proto().spec) for o in objects}
for spec in specs.values():
    # A pickle, which names the file that it was made from; Feast runs the text beside it.
    spec.get("featureTransformation", {}).get("userDefinedFunction", {}).pop("body", None)
print(json.dumps(specs, sort_keys=True))
"""


def registered(clone: Clone) -> dict[str, object]:
    return json.loads(clone.python(REGISTERED).splitlines()[-1])


def test_feast_apply_works_alone_in_a_clean_clone(tmp_path, config):
    clone = Clone(tmp_path)
    assert not (clone.root / "data").exists()
    feast_apply(clone)
    assert set(registered(clone)) == {o.name for o in declare(config)}


def test_the_pipeline_applies_as_feast_apply_does(tmp_path):
    clone = Clone(tmp_path)
    # Three entities, the sequences, two views of statistics, two popular lists, members' lists, the
    # item spaces; of each line a view, a match and a service.
    n_objects = 9 + len({line.items for line in AGGREGATORS}) + 3 * len(AGGREGATORS)
    clone.python(
        "import os\nfrom serving import publish\n"
        "from transformations.config import load_config\nos.chdir('/')\n"
        "config = load_config()\n"
        f"assert publish.apply(config, publish.open_store(config)) == {n_objects}"
    )
    before = registered(clone)
    feast_apply(clone)
    assert registered(clone) == before
    catalog = clone.root / "models" / "catalog.py"
    lines = catalog.read_text().splitlines(keepends=True)
    shipped = "GeometricDecay(version=1, decay=0.8"
    catalog.write_text("".join(x for x in lines if not x.strip().startswith(shipped)))
    feast_apply(clone)
    gone = {"member_activity_decay_v1", "activity_match_decay_v1", "ranker_decay_v1"}
    assert registered(clone) == {name: spec for name, spec in before.items() if name not in gone}


ROW = {
    "v__apply_embedding": [[3.0, 4.0]],
    "apply_embedding": [[3.0, 4.0]],
    "v__stored_n_apply": [2],
    "stored_n_apply": [2],
    "i__embedding": [[1.0, 0.0]],
    "embedding": [[1.0, 0.0]],
}


def test_match_of_one_member_and_item():
    assert activity_match(ROW) == {"cosine_apply": [0.6], "dot_apply": [3.0], "n_apply": [2]}


@pytest.mark.parametrize("gone", [None, []])
@pytest.mark.parametrize("name", ["apply_embedding", "embedding"])
def test_match_with_what_is_not_there_is_zero(name, gone):
    assert activity_match(ROW | {name: [gone]}) == {
        "cosine_apply": [0.0],
        "dot_apply": [0.0],
        "n_apply": [2],
    }


def test_a_count_that_is_not_there_is_zero():
    assert activity_match(ROW | {"stored_n_apply": [None]})["n_apply"] == [0]


def test_match_with_a_vector_without_length_is_zero():
    matched = activity_match(ROW | {"apply_embedding": [[0.0, 0.0]]})
    assert matched["cosine_apply"] == matched["dot_apply"] == [0.0]


def test_match_refuses_vectors_of_two_spaces():
    with pytest.raises(ValueError, match=r"apply_embedding has 2 numbers.*vector has 3"):
        activity_match(ROW | {"embedding": [[1.0, 0.0, 0.0]]})


def test_match_leaves_a_labels_own_columns_alone():
    labels = {"title_embedding": ["no vector"], "stored_n_seen": ["no number"]}
    assert activity_match(ROW | labels) == activity_match(ROW)


def test_match_with_an_item_of_another_kind_is_zero():
    match, text = match_of(["course", "post"])
    kinds = ["job", "course", None, "post"]
    rows = {name: values * 4 for name, values in ROW.items()} | {"i__kind": kinds, "kind": kinds}
    assert match(rows) == {
        "cosine_apply": [0.0, 0.6, 0.0, 0.6],
        "dot_apply": [0.0, 3.0, 0.0, 3.0],
        "n_apply": [2] * 4,
    }
    rebuilt = rehydrate_udf_from_source(text)
    assert rebuilt is not None
    assert rebuilt(rows) == match(rows)
    assert match_of(None) == (activity_match, inspect.getsource(activity_match))


def test_a_space_of_dot_products_is_matched_by_them_alone():
    match, text = match_of(None, "dot")
    assert match(ROW) == {"dot_apply": [3.0], "n_apply": [2]}
    rebuilt = rehydrate_udf_from_source(text)
    assert rebuilt is not None
    assert rebuilt(ROW) == match(ROW)
    of_kinds, _ = match_of(["post"], "dot")
    assert of_kinds(ROW | {"i__kind": ["job"], "kind": ["job"]}) == {
        "dot_apply": [0.0],
        "n_apply": [2],
    }


def test_match_needs_nothing_but_its_own_text():
    rebuilt = rehydrate_udf_from_source(inspect.getsource(activity_match))
    assert rebuilt is not None
    assert rebuilt is not activity_match
    assert rebuilt(ROW) == activity_match(ROW)


number = st.floats(min_value=-(2.0**60), max_value=2.0**60, width=32)
vectors = st.none() | st.lists(number, min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(vectors, vectors), max_size=6))
def test_match_is_the_formula(rows):
    members, items = [m for m, _ in rows], [i for _, i in rows]
    matched = activity_match(
        {"v__activity_embedding": members, "activity_embedding": members, "embedding": items}
    )
    assert len(matched["cosine"]) == len(matched["dot"]) == len(rows)
    for (member, item), cosine, dot in zip(rows, matched["cosine"], matched["dot"], strict=True):
        said = {"cosine": cosine, "dot": dot}
        if member and item and max(map(abs, (*member, *item))) < 1e6:
            for similarity in ("cosine", "dot"):
                one, other = comparable(np.array([member, item]), similarity)
                # float32 has nothing between 0 and its smallest numbers.
                near = 1e-5 * math.hypot(*one) * math.hypot(*other) + 1e-30
                assert said[similarity] == pytest.approx(float(one @ other), abs=near)
        products = [a * b for a, b in zip(member or [], item or [], strict=False)]
        scale = math.hypot(*(member or [])) * math.hypot(*(item or []))
        assert dot == pytest.approx(sum(products), abs=1e-12 * scale)
        expected = sum(products) / scale if scale > 1e-280 and products else 0.0
        if scale == 0 or scale > 1e-280:
            assert cosine == pytest.approx(expected, abs=1e-6)


def test_every_aggregator_of_the_catalogue_is_declared(config):
    services = named(declare(config), FeatureService)
    assert set(services) == {aggregator.service for aggregator in AGGREGATORS}
    for aggregator in AGGREGATORS:
        projected = {
            p.name: [f.name for f in p.features]
            for p in services[aggregator.service].feature_view_projections
        }
        assert projected[aggregator.view] == [*aggregator.vectors(config), "last_action_at"]
        space = aggregator.items or "tfidf_svd_v1"
        assert projected[f"item_embedding_{space}"] == ["embedding"]
        assert "n_actions" in projected[aggregator.match]


def test_the_views_of_numbers_have_the_columns_that_rankers_list(tmp_path):
    config = World(tmp_path).config.model_copy(
        update={"members": Members(source="m.csv", numeric=["Age"], categorical=["field"])}
    )
    views = named(declare(shipped(config)), FeatureView)
    types = {"number": Float64, "category": String, "timestamp": UnixTimestamp}
    for view, columns in (
        (ITEM_STATS_VIEW, item_stats_columns(config)),
        (MEMBER_STATS_VIEW, member_stats_columns(config)),
        (PROFILE_VIEW, profile_columns(config)),
    ):
        fields = {field.name: field.dtype for field in views[view].features}
        assert fields == {name: types[kind] for name, kind in columns.items()}
    assert profile_columns(config) == {"age": "number", "field": "category"}
    without = named(declare(shipped(World(tmp_path).config)), FeatureView)
    assert PROFILE_VIEW not in without
