"""docs/architecture.md and docs/configuration.md say what the code does: rooms, tables, keys."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService
from feast.feature_logging import FeatureServiceLoggingSource
from pydantic import BaseModel

from models.candidates.build import build_lists
from models.candidates.spec import Neighbours, Popular
from models.embed import embed_snapshot
from models.items.build import build_items
from models.packaging import package
from models.spec import Average
from pipelines.ranking.precomputed import write_lists
from serving.recommend.impressions import Impressions
from serving.recommend.input_log import Logged, logged_table
from serving.recommend.scored import Scored, Served
from stores.read import Features
from tests.serving.recommend.test_impressions import answer_of
from tests.test_house import MAY_IMPORT, ROOMS
from tests.worlds.events import AS_OF, DAY, Event, configure, write_source
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.example_settings import ExampleSettings
from transformations.examples import build_training_examples
from transformations.layout import part_files, partition, partition_files
from transformations.sources import stage_activity, stage_items, stage_members
from transformations.stats.item_stats import build_item_stats
from transformations.stats.member_stats import build_member_stats
from transformations.tables import build_sequences

PAGE = (ROOT / "docs" / "architecture.md").read_text()
TYPES = {
    "id": pa.int64(),
    "int64": pa.int64(),
    "string": pa.string(),
    "string[]": pa.list_(pa.string()),
    "double": pa.float64(),
    "float": pa.float32(),
    "float[]": pa.list_(pa.float32()),
    "float[dim]": pa.list_(pa.float32()),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "map": pa.map_(pa.string(), pa.string()),
}
LINE = Average(version=1)
SOURCES = (Popular(version=1), Neighbours(of="tfidf_svd_v1", version=1))


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of a page's Markdown tables, without their heads."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_rooms_and_their_imports_are_those_that_the_tests_hold() -> None:
    table = PAGE.split("<!-- rooms -->")[1].split("\n\n")[0]
    told = {
        row[0].strip("`/"): {name.strip("` ") for name in row[2].split(",")} - {""}
        for row in list(rows(table))[1:]
    }
    assert told == {room: set(names) for room, names in MAY_IMPORT.items()}


def test_every_folder_is_told_and_there() -> None:
    section = PAGE.split("## Rooms")[1].split("## Words")[0]
    told = []
    for row in rows(section):
        first, *beside = re.findall(r"`([a-z_/]+/)`", row[0]) or [None]
        if first is not None:
            told += [Path(first), *(Path(first).parent / name for name in beside)]
    assert [path for path in told if not (ROOT / path).is_dir()] == []
    folders = {
        file.parent.relative_to(ROOT).as_posix()
        for room in ROOMS
        for file in (ROOT / room).rglob("__init__.py")
    }
    everywhere = set(re.findall(r"[a-z_]+", section))
    assert [folder for folder in folders if folder.split("/")[-1] not in everywhere] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Every table of the page, made by the code that makes it: name → its files."""
    folder = tmp_path_factory.mktemp("tables")
    events = [
        Event(member, item, action, AS_OF - number * DAY / 3)
        for member in (1, 2, 3)
        for number, (item, action) in enumerate(
            [(1, "APPLY"), (2, "SAVE"), (3, "DISMISS"), (1, "SAVE")], start=1
        )
    ]
    source = folder / "events.parquet"
    write_source(source, [*events, Event(1, 1, "LIKE", AS_OF - DAY)])
    table = pq.read_table(source)
    pq.write_table(table.append_column("query", pa.array(["red"] * len(table))), source)
    items = {
        "item_id": [1, 2, 3],
        "title": ["red fish", "blue fish", "red blue"],
        "vector": [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    (folder / "members.csv").write_text("member_id,Age\n1,30\n")
    config = configure(
        folder,
        events={"source": str(source), "max_refused_share": 1},
        actions={"APPLY": "positive", "SAVE": "positive", "DISMISS": {"text": "query"}},
        items={
            "source": str(folder / "items.parquet"),
            "text": ["title"],
            "categories": ["title"],
            "embedding": "vector",
        },
        members={"source": str(folder / "members.csv"), "numeric": ["Age"]},
        dim=2,
    )
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
        stage_items(config, con, AS_OF)
        stage_members(config, con, AS_OF)
        build_items(config, con, AS_OF, AS_OF - config.window)
        build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF)
        package(LINE, config)
        embed_snapshot(config, con, AS_OF, AS_OF, [LINE])
        build_member_stats(config, AS_OF)
        build_item_stats(config, con, AS_OF, AS_OF)
        build_lists(config, con, AS_OF, AS_OF, [(line, config) for line in SOURCES])
        settings = ExampleSettings(horizon=timedelta(days=1))
        examples = build_training_examples(config, con, settings, AS_OF)
        made = Scored(np.array([2, 1]), np.array([0.5, 0.25], np.float32), [{}, {}])
        write_lists(config, con, AS_OF, AS_OF, [([3], [made])])
    impressions = Impressions(config)
    impressions.add(answer_of("a"), {"surface": "home"})
    impressions.close()
    features = folder / "features.parquet"
    pq.write_table(logged(), features)
    layout = config.layout
    lists = [partition(layout.lists(line.view(config.space)), AS_OF) for line in SOURCES]
    return {
        "activity": partition_files(layout.activity),
        "quarantine": partition_files(layout.quarantine),
        "searches": [layout.searches],
        "stg_items": [layout.staged_items],
        "members": [layout.members],
        "items": part_files(config.items_dir),
        "member_sequences": [partition(layout.sequences, AS_OF)],
        "member_embeddings": [partition(layout.embeddings(LINE.view), AS_OF)],
        "member_stats": [partition(layout.member_stats, AS_OF)],
        "popular_items": lists[:1],
        "item_neighbours": lists[1:],
        "member_recommendations": [partition(layout.recommendations, AS_OF)],
        "item_stats": [partition(layout.item_stats, AS_OF)],
        "impressions": [*layout.impressions.glob("*/*.parquet")],
        "logged_features": [features],
        "training_examples": [examples.file],
    }


def logged() -> pa.Table:
    """What is logged of one pair, by a service without a feature."""
    service = FeatureService(name="recommend_linear_v1", features=[])
    logs = FeatureServiceLoggingSource(service, "project").get_schema(Mock())
    schema = pa.unify_schemas([pa.schema({"member_id": pa.int64(), "item_id": pa.int64()}), logs])
    nothing = Served(Features({}, {}), Features({}, {}))
    return logged_table(schema, service, [Logged("a", 1, [2], "linear_v1", AS_OF, nothing)])


def test_every_table_is_on_the_page(built: dict[str, list[Path]]) -> None:
    tables = PAGE.split("## Tables")[1].split("## Time")[0]
    assert re.findall(r"^### (\w+)$", tables, re.MULTILINE) == list(built)


@pytest.mark.parametrize(
    "table",
    [
        "activity",
        "quarantine",
        "searches",
        "stg_items",
        "members",
        "items",
        "member_sequences",
        "member_embeddings",
        "member_stats",
        "popular_items",
        "item_neighbours",
        "member_recommendations",
        "item_stats",
        "impressions",
        "logged_features",
        "training_examples",
    ],
)
def test_the_columns_told_are_those_that_are_made(built: dict[str, list[Path]], table: str) -> None:
    section = re.split(r"\n##+ ", PAGE.split(f"\n### {table}\n")[1])[0]
    told: dict[str, str] = {}
    for names, kind, _ in list(rows(section))[1:]:
        for name in names.replace("\\", "").split(", "):
            if "<action>" in name:
                # Of item_stats only those that have an item, which a DISMISS has not here.
                done = ("apply", "save", "dismiss")[: 2 if table == "item_stats" else 3]
                told |= dict.fromkeys((name.replace("<action>", one) for one in done), kind)
            elif name == "<vector field>":
                told |= dict.fromkeys(LINE.vectors(configure(ROOT)), kind)
            else:
                told[name] = kind
    for file in built[table]:
        made = pq.read_schema(file)
        # Without an attribute that is a duration there is no such column.
        told = {name: kind for name, kind in told.items() if not name.startswith("dwell")}
        told |= {"age": "double"} if table == "members" else {}
        assert set(made.names) == set(told)
        for name, kind in told.items():
            if kind == "list":
                assert pa.types.is_list(made.field(name).type), name
            elif kind:
                assert _plain(made.field(name).type) == TYPES[kind], name


def _plain(kind: pa.DataType) -> pa.DataType:
    """DuckDB names the items of its lists otherwise."""
    return pa.list_(kind.value_type) if pa.types.is_list(kind) else kind


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for own, field in model.model_fields.items():
        name, kind = field.alias or own, field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_key_of_the_configuration_is_told_and_none_else() -> None:
    told: set[str] = set()
    for cells in list(rows((ROOT / "docs" / "configuration.md").read_text()))[1:]:
        names = re.findall(r"`([\w.]+)`", cells[0])
        parent = names[0].rpartition(".")[0]
        for name in names:
            # `.version` and `item_id` stand beside a key whose parent they share.
            alone = name.startswith(".") or ("." not in name and parent)
            told.add(f"{parent}.{name.lstrip('.')}" if alone else name)
    # What the user names has keys of its own.
    assert {key for key in told if ".NAME." not in key} == set(keys_of(Config))
