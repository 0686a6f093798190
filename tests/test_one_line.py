"""Promise 2: one line in the catalogue is trained, packaged, embedded, served and compared."""

import json
import re

import pytest

from tests.worlds.clone import Clone

CATALOG = '''"""A temporary catalogue."""

from models.training.recipe import Recipe
from models.spec import Aggregator, Cnn, GeometricDecay

AGGREGATORS: tuple[Aggregator, ...] = (
    GeometricDecay(version=1, decay=0.8),
    Cnn(name="tiny", version=3, filters=4, recipe=Recipe(epochs=2, negatives=32)),
)
'''

LEFT_OUT = ("--without", "ease", "--without", "als", "--without", "sasrec")
EVALUATED = ("--seeds", "2", "--max-labels", "800", *LEFT_OUT)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("one_line"))
    (made.root / "models" / "catalog.py").write_text(CATALOG)
    made.activity("simulate", "--members", "700", "--jobs", "300", "--days", "50")
    made.output = made.activity("run", "--as-of", "last")
    made.compared = made.activity("evaluate", *EVALUATED)
    return made


def test_it_is_trained_and_packaged(clone: Clone) -> None:
    manifest = json.loads((clone.root / "data/artifacts/tiny/v3/manifest.json").read_text())
    assert manifest["trained_until"] is not None
    assert manifest["recipe"]["epochs"] == 2
    assert len(manifest["history"]["select"]) == 2
    assert manifest["figures"]["examples"] > 100
    assert "positive : negative" in clone.output
    name_number_line = re.compile(r"^\s*tiny\s+1\s+v3\s", re.MULTILINE)
    assert name_number_line.search(clone.activity("models"))


def test_it_is_embedded(clone: Clone) -> None:
    folder = "{data}/member_embeddings/member_activity_tiny_v3/*/*.parquet"
    ((members, vectors),) = clone.rows(
        f"select count(*), count(distinct activity_embedding) from '{folder}'"
    )
    assert members > 300
    assert vectors > 100


def test_it_has_a_view_and_a_service(clone: Clone) -> None:
    printed = clone.python(
        "from feast import FeatureStore\nstore = FeatureStore('.')\n"
        "service = store.get_feature_service('ranker_tiny_v3')\n"
        "print(store.get_feature_view('member_activity_tiny_v3').tags['weights_sha256'])\n"
        "rows = [{'member_id': m, 'item_id': 1} for m in range(1, 200)]\n"
        "got = store.get_online_features(features=service, entity_rows=rows).to_dict()\n"
        "print(sum(vector is not None for vector in got['activity_embedding']))\n"
    )
    weights, there = printed.split()
    manifest = json.loads((clone.root / "data/artifacts/tiny/v3/manifest.json").read_text())
    assert weights == manifest["weights_sha256"]
    assert int(there) > 50


def test_it_is_compared_and_in_the_report(clone: Clone) -> None:
    result = json.loads((clone.root / "data/evaluation/result.json").read_text())
    assert result["challenger"] == "tiny"
    variants = {variant["name"]: variant for variant in result["variants"]}
    # The baseline is whichever decay of the grid did best on validation.
    beside = {"none", "popular", "knn", "last_item", "decay", "tiny", "tiny_knn"}
    assert beside | {result["baseline"]} <= set(variants)
    assert variants["tiny"]["kind"] == "learned"
    assert variants["tiny"]["bytes_per_member"] == 256
    assert set(variants["tiny"]["difference"]) == set(variants["tiny"]["metrics"])
    for control in result["controls"]:
        if control["name"].startswith("one definition"):
            assert control["passed"], control
    assert [point["decay"] for point in result["decay_grid"] if point["chosen"]]
    page = clone.root / "data/evaluation/report.html"
    assert "tiny" in page.read_text()
    assert clone.compared.rstrip().endswith("The report: data/evaluation/report.html")


def test_a_report_without_an_evaluation_names_the_command(tmp_path) -> None:
    empty = Clone(tmp_path)
    assert "first: activity evaluate" in " ".join(empty.activity("report", fails=2).split())


def test_evaluating_again_keeps_the_packages(clone: Clone) -> None:
    manifests = sorted((clone.root / "data/evaluation").rglob("artifacts/tiny/v3/manifest.json"))
    before = [manifest.stat().st_mtime_ns for manifest in manifests]
    assert before
    again = clone.activity("evaluate", *EVALUATED)
    assert [manifest.stat().st_mtime_ns for manifest in manifests] == before
    assert "train tiny" not in again
