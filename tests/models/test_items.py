"""The item encoder: fitted once on the past, the same for every later item; and its table."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.items.build import build_items
from models.items.protocol import Corpus, Document
from models.items.saved import fitted_until
from models.items.tfidf_svd import TfidfSvd, tokens
from tests.worlds.tiny_models import UTC_US, tiny_config
from transformations.config import ROOT, Config
from transformations.duck import TableReport, connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import part_files
from transformations.names import Space

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
FIT_BEFORE = AS_OF - timedelta(days=28)

# (item_id, known at, text, categories)
Row = tuple[Any, datetime, str | None, list[str] | None]

OLD: list[Row] = [
    (number, FIT_BEFORE - timedelta(days=10 - number), text, [f"field={field}"])
    for number, (text, field) in enumerate(
        [
            ("Senior data engineer", "data"),
            ("Data analyst", "data"),
            ("Nurse, night shift", "care"),
            ("Senior nurse", "care"),
            ("Night porter", "hotel"),
            ("Data engineer, hotel", "hotel"),
        ]
    )
]


def stage(config: Config, rows: Sequence[Row]) -> None:
    ids = pa.int64() if config.member_id_type == "int64" else pa.string()
    columns = {
        "item_id": pa.array([row[0] for row in rows], ids),
        "available_at": pa.array([row[1] for row in rows], UTC_US),
        "text": pa.array([row[2] for row in rows], pa.string()),
        "categories": pa.array([row[3] for row in rows], pa.list_(pa.string())),
    }
    write_staged(config, columns)


def write_staged(config: Config, columns: dict[str, pa.Array]) -> None:
    folder = config.data / "stg_items"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "part-0.parquet")


def build(
    config: Config, as_of: datetime = AS_OF, fit_before: datetime = FIT_BEFORE
) -> TableReport:
    with connect(config) as con:
        return build_items(config, con, as_of, fit_before)


def items(config: Config) -> dict[tuple[Any, datetime], list[float]]:
    rows = [
        row
        for file in part_files(config.items_dir)
        for row in pq.ParquetFile(file).read().to_pylist()
    ]
    vectors = {(row["item_id"], row["available_at"]): row["embedding"] for row in rows}
    assert len(vectors) == len(rows), "a row was encoded twice"
    return vectors


def manifest(config: Config) -> dict[str, Any]:
    file = config.data / "item_encoders" / "tfidf_svd" / "v1" / "manifest.json"
    read: dict[str, Any] = json.loads(file.read_text())
    return read


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path, dim=3, items={"text": ["title"], "categories": ["field"]})


# TF-IDF and SVD.


def documents(*texts: str) -> list[Document]:
    return [Document(text, ["field=x"]) for text in texts]


TEXTS = documents("a b c", "a b", "c d a", "d b", "b c d", "a d")


def test_tokens_are_words_and_whole_categories() -> None:
    assert list(tokens(Document("Ärztin: C++ / R&D_2", ["field=Health care", "g=a|b"]))) == [
        "ärztin",
        "c",
        "r",
        "d_2",
        "field=Health care",
        "g=a|b",
    ]
    assert list(tokens(Document(None, None))) == []


def test_vectors_have_length_one_and_alike_items_are_near() -> None:
    encoder = TfidfSvd.of_documents(TEXTS, 3)
    vectors = encoder.encode(Corpus(documents("a b c", "c a b", "d")))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-7)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_categories_keep_their_case() -> None:
    documents = [Document(None, [f"genre={g}"]) for g in ("Drama", "drama", "Drama", "drama")]
    upper, lower, *_ = TfidfSvd.of_documents(documents, 2).encode(Corpus(documents))
    assert abs(float(upper @ lower)) < 1e-6


def test_an_item_without_a_known_token_has_zeros() -> None:
    encoder = TfidfSvd.of_documents(TEXTS, 3)
    unknown = [Document("zebra", ["field=other"]), Document(None, None)]
    assert not encoder.encode(Corpus(unknown)).any()
    assert encoder.describe() == {"terms": 5}


@pytest.mark.parametrize(
    ("texts", "got"),
    [(TEXTS[:2], "2 items and 3 tokens"), (documents("a", "b", "c"), "3 items and 1 tokens")],
)
def test_too_little_to_fit_on_is_refused_with_numbers(texts: list[Document], got: str) -> None:
    with pytest.raises(InputError, match=f"dimension 3 needs at least 3 items.*{got}"):
        TfidfSvd.of_documents(texts, 3)


# The table.


def test_every_item_gets_a_vector_of_the_one_fit(config: Config) -> None:
    later = AS_OF - timedelta(days=3)
    stage(config, [*OLD, (100, later, "Night nurse, data", ["field=care"])])
    report = build(config)
    assert (report.rows_in, report.rows_out, report.refused) == (7, 7, {})
    assert report.written == ("part-2026-03-01.parquet",)
    encoder = TfidfSvd.of_documents(
        [Document(text, categories) for _, _, text, categories in OLD], 3
    )
    expected = encoder.encode(Corpus([Document("Night nurse, data", ["field=care"])]))[0]
    np.testing.assert_array_equal(items(config)[100, later], expected)


def test_the_columns_of_items(config: Config) -> None:
    stage(config, OLD)
    build(config)
    (file,) = config.items_dir.glob("*.parquet")
    table = pq.ParquetFile(file).read()
    assert [f"{field.name} {field.type}" for field in table.schema] == [
        "item_id int64",
        "embedding list<element: float>",
        "available_at timestamp[us, tz=UTC]",
        "encoder string",
        "encoder_version int64",
        "encoder_fit int64",
    ]
    assert {*table["encoder"].to_pylist()} == {"tfidf_svd"}
    assert {*table["encoder_version"].to_pylist()} == {1}


def test_kinds_stand_beside_the_vectors_and_are_added_to_those_of_before(
    config: Config, tmp_path: Path
) -> None:
    stage(config, OLD)
    build(config)
    before = items(config)
    config = tiny_config(
        tmp_path, dim=3, items={"text": ["title"], "categories": ["field"], "kind": "kind"}
    )
    more = [*OLD, (6, AS_OF - timedelta(days=1), "Night engineer", ["field=data"])]
    stage(config, more)
    staged = pq.ParquetFile(config.layout.staged_items).read()
    kinds = ["job", "course", "job", None, "job", "post", "course"]
    write_staged(config, {**staged.to_pydict(), "kind": pa.array(kinds, pa.string())})

    assert build(config).rows_out == 1
    assert build(config).rows_out == 0
    found = pa.concat_tables(
        [pq.ParquetFile(file).read(["item_id", "kind"]) for file in part_files(config.items_dir)],
        promote_options="permissive",
    )
    assert found.sort_by("item_id")["kind"].to_pylist() == kinds
    assert {key: items(config)[key] for key in before} == before


def test_items_known_at_or_after_the_limit_do_not_change_the_fit(
    config: Config, tmp_path: Path
) -> None:
    stage(config, OLD)
    build(config)
    other = tiny_config(tmp_path / "other", dim=3, items=config.items.model_dump())
    future: list[Row] = [
        (50 + n, FIT_BEFORE + timedelta(microseconds=n), "Data porter future", ["field=data"])
        for n in range(5)
    ]
    stage(other, [*OLD, *future])
    build(other)
    assert manifest(other)["sha256"] == manifest(config)["sha256"]
    assert manifest(other)["items"] == len(OLD)


def test_a_vector_is_not_available_before_its_fit(config: Config) -> None:
    stage(config, [*OLD, (100, FIT_BEFORE + timedelta(days=1), "Nurse", None)])
    build(config)
    assert {available for item, available in items(config) if item != 100} == {FIT_BEFORE}
    assert (100, FIT_BEFORE + timedelta(days=1)) in items(config)


def test_the_first_build_alone_says_what_the_fit_sees(config: Config) -> None:
    limit = FIT_BEFORE - timedelta(hours=1)
    stage(config, OLD)
    assert fitted_until(config) is None
    build(config, fit_before=limit)
    assert fitted_until(config) == limit
    assert {available for _, available in items(config)} == {limit}
    stage(config, [*OLD, (200, AS_OF, "Nurse", None)])
    build(config, AS_OF + timedelta(days=1), fit_before=AS_OF)
    assert fitted_until(config) == limit


def test_a_part_of_before_there_were_fits_is_of_the_first(config: Config) -> None:
    stage(config, OLD)
    build(config)
    (part,) = part_files(config.items_dir)
    pq.write_table(pq.ParquetFile(part).read().drop_columns(["encoder_fit"]), part)
    stage(config, [*OLD, (200, AS_OF, "Nurse", None)])
    assert build(config).rows_out == 1
    assert len(items(config)) == len(OLD) + 1


def test_another_fit_is_another_space_beside_the_first(config: Config) -> None:
    stage(config, OLD)
    build(config)
    before = items(config)
    second = config.in_space(replace(config.space, fit=2))
    build(second, fit_before=FIT_BEFORE - timedelta(days=4))
    assert items(config) == before
    assert second.items_dir.name == "version=1_f2"
    rows = pq.ParquetFile(part_files(second.items_dir)[0]).read()
    assert {*rows["encoder_fit"].to_pylist()} == {2}
    assert {available for _, available in items(second)} == {FIT_BEFORE - timedelta(days=4)}


def test_a_later_build_encodes_only_what_is_new_with_the_same_fit(config: Config) -> None:
    stage(config, OLD)
    build(config)
    first, fit = items(config), manifest(config)
    assert build(config, AS_OF + timedelta(days=1)).written == ()
    new: list[Row] = [(200, AS_OF, "Data engineer, hotel", ["field=hotel"])]
    stage(config, [*OLD, *new])
    report = build(config, AS_OF + timedelta(days=1))
    assert (report.rows_in, report.rows_out) == (1, 1)
    assert report.written == ("part-2026-03-02.parquet",)
    after = items(config)
    assert {key: after[key] for key in first} == first
    # Equal text, equal vector: it is the same space.
    assert after[200, AS_OF] == first[5, FIT_BEFORE]
    assert manifest(config) == fit


def test_rows_that_appear_later_for_the_same_as_of_are_added(config: Config) -> None:
    stage(config, OLD)
    build(config)
    stage(config, [*OLD, (300, AS_OF - timedelta(days=1), "Nurse", None)])
    assert build(config).written == ("part-2026-03-01-1.parquet",)
    assert len(items(config)) == len(OLD) + 1


def test_a_changed_text_has_a_second_row(config: Config) -> None:
    later = AS_OF - timedelta(days=2)
    stage(config, [*OLD, (0, later, "Nurse", ["field=care"])])
    build(config)
    vectors = items(config)
    assert vectors[0, FIT_BEFORE] != vectors[0, later]
    assert len(vectors) == len(OLD) + 1


def test_of_two_texts_before_the_fit_the_last_one_counts(config: Config, tmp_path: Path) -> None:
    early = (0, OLD[0][1] - timedelta(days=50), "Night porter", ["field=hotel"])
    stage(config, [early, *OLD])
    build(config)
    other = tiny_config(tmp_path / "other", dim=3, items=config.items.model_dump())
    stage(other, OLD)
    build(other)
    assert items(config) == items(other)


def test_an_item_without_a_known_token_has_no_row(config: Config) -> None:
    unknown: list[Row] = [(400, AS_OF, "Zookeeper", ["field=zoo"]), (401, AS_OF, None, None)]
    stage(config, [*OLD, *unknown])
    report = build(config)
    assert (report.rows_in, report.rows_out) == (8, 6)
    assert report.refused == {"no known token": 2}
    again = build(config)
    assert (again.rows_in, again.rows_out, again.written) == (2, 0, ())
    assert len(part_files(config.items_dir)) == 1


def test_text_ids(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, dim=3, id_type="string", items={"text": ["title"], "categories": ["field"]}
    )
    stage(config, [(f"job-{row[0]}", *row[1:]) for row in OLD])
    build(config)
    assert {item for item, _ in items(config)} == {f"job-{number}" for number in range(6)}


# What is refused.


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"dim": 2}, "dim: fitted with 3, now 2"),
        (
            {"items": {"text": ["title", "body"], "categories": ["field"]}},
            r'text: fitted with \["title"\], now \["title", "body"\]',
        ),
        (
            {"items": {"text": ["title"]}},
            r'categories: fitted with \["field"\], now \[\]',
        ),
    ],
    ids=["dim", "text", "categories"],
)
def test_other_settings_under_the_same_version_are_refused(
    config: Config, changes: dict[str, Any], values: str
) -> None:
    stage(config, OLD)
    build(config)
    before = items(config)
    settings = {"dim": 3, "items": config.items.model_dump(exclude_defaults=True)} | changes
    other = tiny_config(config.data.parent, **settings)
    with pytest.raises(InputError, match=values) as error:
        build(other)
    assert "raise the version of tfidf_svd" in str(error.value)
    assert items(config) == before


def test_another_version_is_another_space_beside_the_first(config: Config, tmp_path: Path) -> None:
    stage(config, OLD)
    build(config)
    before = items(config)
    second = tiny_config(config.data.parent, dim=2, items=config.items.model_dump())
    (tmp_path / "catalog.py").write_text(
        "from models.items.spec import TfidfSvd\n"
        "ITEM_ENCODERS = (TfidfSvd(version=2),)\nAGGREGATORS = ()\n"
    )
    second._root = tmp_path
    second = second.in_space(Space("tfidf_svd", 2))
    build(second)
    assert items(config) == before
    assert {len(vector) for vector in items(second).values()} == {2}


def test_too_few_items_before_the_fit_are_refused(config: Config) -> None:
    stage(config, OLD[:2])
    with pytest.raises(InputError, match=r"got 2 items and .* known before 2026-02-01 00:00 UTC"):
        build(config)
    assert not list(config.data.rglob("manifest.json"))


def test_a_damaged_encoder_is_refused(config: Config) -> None:
    stage(config, OLD)
    build(config)
    (archive,) = config.data.rglob("encoder.npz")
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(RunFailedError, match="expected the SHA-256"):
        build(config)


# Vectors from a table.


def staged_vectors(config: Config, rows: dict[int, tuple[datetime, list[float]]]) -> None:
    write_staged(
        config,
        {
            "item_id": pa.array(list(rows), pa.int64()),
            "available_at": pa.array([available for available, _ in rows.values()], UTC_US),
            "vectors": pa.array(
                [[vector] for _, vector in rows.values()], pa.list_(pa.list_(pa.float32()))
            ),
        },
    )


@pytest.fixture
def brought(tmp_path: Path) -> Config:
    return tiny_config(tmp_path, items={"embedding": "theirs"})


def test_vectors_from_a_table_are_kept_as_they_are(brought: Config) -> None:
    rows = {1: (AS_OF - timedelta(days=90), [3.0, 4.0]), 2: (AS_OF, [0.5, 0.25])}
    staged_vectors(brought, rows)
    report = build(brought, AS_OF - timedelta(days=60))
    assert (report.rows_in, report.rows_out, report.refused) == (2, 2, {})
    assert items(brought) == {(item, available): v for item, (available, v) in rows.items()}
    (file,) = brought.items_dir.glob("*.parquet")
    assert pq.ParquetFile(file).read()["encoder"].to_pylist() == ["theirs", "theirs"]
    staged_vectors(brought, rows | {3: (AS_OF, [1.0, 1.0])})
    assert build(brought, AS_OF).rows_out == 1


@pytest.mark.parametrize(
    ("vector", "rule"),
    [
        ([1.0], "embedding has the configured dimension"),
        ([1.0, float("nan")], "embedding is finite"),
        ([1.0, None], "embedding holds no null"),
    ],
)
def test_a_broken_vector_fails_the_check_and_changes_nothing(
    brought: Config, vector: list[float], rule: str
) -> None:
    staged_vectors(brought, {1: (AS_OF, [1.0, 1.0])})
    build(brought)
    before = items(brought)
    staged_vectors(brought, {2: (AS_OF, vector)})
    with pytest.raises(RunFailedError, match=rule):
        build(brought)
    assert items(brought) == before


# A process that dies, and another that does the same work.

BUILD = """
import os, signal, sys
from pathlib import Path
from tests.models.test_items import build, tiny_config
config = tiny_config(
    Path(sys.argv[1]), dim=3, items={"text": ["title"], "categories": ["field"]}
)
if sys.argv[2] == "dies":
    import models.items.build as module
    module.check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
build(config)
"""


def run_elsewhere(folder: Path, how: str) -> int:
    command = [sys.executable, "-c", BUILD, str(folder), how]
    environment = os.environ | {"PYTHONHASHSEED": "7", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def test_another_process_makes_the_same_vectors(config: Config, tmp_path: Path) -> None:
    stage(config, OLD)
    build(config)
    other = tiny_config(tmp_path / "other", dim=3, items=config.items.model_dump())
    stage(other, OLD)
    assert run_elsewhere(tmp_path / "other", "lives") == 0
    for key, vector in items(config).items():
        np.testing.assert_allclose(items(other)[key], vector, atol=1e-6)


def test_a_killed_build_is_made_good_by_the_next(config: Config, tmp_path: Path) -> None:
    stage(config, OLD)
    assert run_elsewhere(tmp_path, "dies") == -signal.SIGKILL
    assert items(config) == {}
    assert [file.suffix for file in config.items_dir.iterdir()] == [".tmp"]
    assert build(config).rows_out == len(OLD)
