"""Actions on a text: one id for the same words, staged as an item, or refused with the reason."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.events import AS_OF, DAY, at, configure, read_activity
from transformations.config import Config, load_config
from transformations.duck import TableReport, connect
from transformations.errors import InputError
from transformations.layout import partition_files
from transformations.rules import IdType
from transformations.searches import LONGEST, are_searches, is_search, normalized, read
from transformations.sources import stage_activity, stage_items

ACTIONS: dict[str, Any] = {"APPLY": "positive", "SEARCH": {"text": "query"}}
HEADER = "member_id,item_id,action,event_timestamp,query"
TIME = "2026-03-08 12:00:00"
WHEN = at(TIME)


def configured(folder: Path, id_type: IdType = "int64", **changes: Any) -> Config:
    """Two sources of CSV in `folder`, read with texts; every share may be refused."""
    items = {"source": str(folder / "items.csv"), "text": ["title"]}
    given: dict[str, Any] = {
        "events": {"source": str(folder / "events.csv"), "max_refused_share": 1},
        "items": items | changes.pop("items", {}),
        "actions": ACTIONS,
        "id_type": id_type,
    }
    return configure(folder, **given | changes)


def stage(config: Config, *lines: str, header: str = HEADER, as_of: datetime = AS_OF) -> Any:
    """Stage lines of a CSV; return the report."""
    Path(config.events.source).write_text("\n".join([header, *lines]) + "\n")
    with connect(config) as con:
        return stage_activity(config, con, as_of)


def searches(config: Config) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(config.layout.searches).to_pylist()]


def quarantined(config: Config) -> list[dict[str, Any]]:
    files = partition_files(config.layout.quarantine)
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def acted_on(config: Config) -> list[tuple[Any, Any, str]]:
    """Return (member, item, action) of all activity."""
    return [event[:3] for rows in read_activity(config).values() for event in rows]


def id_of(text: str, id_type: IdType = "int64") -> Any:
    return read(id_type, "SEARCH", text).item_id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Data Engineer", "data engineer"),
        ("  data\t \n engineer ", "data engineer"),
        ("data\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}engineer", "data engineer"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}\N{LATIN SMALL LIGATURE FI}", "afi"),
        ("STRASSE", "strasse"),
        ("Stra\N{LATIN SMALL LETTER SHARP S}e", "strasse"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("C++ / C#", "c++ / c#"),
        ("\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH SPACE}"),
        (" \t ", ""),
    ],
)
def test_a_text_in_one_form(text: str, words: str) -> None:
    assert normalized(text) == words


def test_ids_stay_what_they_are() -> None:
    """They are in activity and online: another hash would make other items of the same words."""
    assert id_of("Data  engineer") == -1324743219106876618
    assert id_of("data engineer", "string") == "search:12626ef061790cc99fe67ec005fd8390"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "the text of SEARCH is missing"),
        ("", "the text of SEARCH is missing"),
        ("\N{NO-BREAK SPACE}\t", "the text of SEARCH is missing"),
        (5, "the text of SEARCH is not a text"),
        ("\ud800", "the text of SEARCH is not a text"),
        ("x" * (LONGEST + 1), "the text of SEARCH is too long"),
        # One character of the source that is three once it is normalized.
        ("\N{SQUARE KM}" * LONGEST, "the text of SEARCH is too long"),
    ],
)
def test_a_text_that_is_refused(text: Any, problem: str) -> None:
    assert read("int64", "SEARCH", text) == (None, None, problem)


def test_the_longest_text() -> None:
    assert read("int64", "SEARCH", " " + "x" * LONGEST).problem is None


@given(text=st.text(max_size=60), spaces=st.sampled_from([" ", "\t ", "\N{NO-BREAK SPACE}"]))
def test_the_same_words_are_the_same_item(text: str, spaces: str) -> None:
    words = text.split()
    for id_type in ("int64", "string"):
        one = read(id_type, "SEARCH", text)
        assert read(id_type, "SEARCH", spaces + spaces.join(words) + spaces) == one
        if one.item_id is None:
            continue
        assert is_search(one.item_id)
        assert are_searches(pa.array([one.item_id])).to_pylist() == [True]
        if id_type == "int64":
            assert -(2**63) < one.item_id < 0  # type: ignore[operator]


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(
        st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
        min_size=1,
        max_size=30,
    )
)
def test_staging_reads_as_the_stream_does(id_type: IdType, texts: list[str | None]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "events.parquet"
        config = configured(
            Path(folder), id_type, events={"source": str(file), "max_refused_share": 1}
        )
        count = len(texts)
        members = range(count) if id_type == "int64" else [f"{n:03}" for n in range(count)]
        columns: dict[str, Sequence[Any]] = {
            "member_id": [*members],
            "item_id": [None] * count,
            "action": ["SEARCH"] * count,
            "event_timestamp": [WHEN] * count,
            "query": pa.array(texts, pa.string()),
        }
        pq.write_table(pa.table(columns), file)
        with connect(config) as con:
            report = stage_activity(config, con, AS_OF)
        expected = [read(id_type, "SEARCH", text) for text in texts]
        kept = [search for search in expected if search.problem is None]
        assert acted_on(config) == [
            (member, search.item_id, "SEARCH")
            for member, search in zip(members, expected, strict=True)
            if search.problem is None
        ]
        assert searches(config) == sorted({(one.item_id, one.text, WHEN) for one in kept})
        assert sum(report.refused.values()) == count - len(kept)


class TestEvents:
    """Rows of an events source."""

    def test_a_search_needs_no_item_and_another_action_does(self, tmp_path: Path) -> None:
        config = configured(tmp_path)
        report = stage(
            config,
            f"1,,SEARCH,{TIME},Night  nurse",
            f"2,7,SEARCH,{TIME},night nurse",  # its item is ignored
            f"3,cook,SEARCH,{TIME},cook",
            f"4,8,APPLY,{TIME},",
            f"5,8,APPLY,{TIME},ignored",
            f"6,,APPLY,{TIME},nurse",
        )
        nurse, cook = id_of("night nurse"), id_of("cook")
        assert acted_on(config) == [
            (1, nurse, "SEARCH"),
            (2, nurse, "SEARCH"),
            (3, cook, "SEARCH"),
            (4, 8, "APPLY"),
            (5, 8, "APPLY"),
        ]
        assert report.refused == {"item_id is null": 1}
        assert sorted(searches(config)) == sorted(
            [(nurse, "night nurse", WHEN), (cook, "cook", WHEN)]
        )

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (f"1,7,SEARCH,{TIME},", "the text of SEARCH is missing"),
            (f"1,7,SEARCH,{TIME},   ", "the text of SEARCH is missing"),
            (f"1,7,SEARCH,{TIME},{'x' * 201}", "the text of SEARCH is too long"),
            (f"1,-7,APPLY,{TIME},", "item_id is reserved for texts"),
            (f",,SEARCH,{TIME},cook", "member_id is null"),
            ("1,,SEARCH,noon,cook", "event_timestamp cannot be read"),
        ],
    )
    def test_a_row_that_is_refused(self, tmp_path: Path, line: str, reason: str) -> None:
        config = configured(tmp_path)
        assert stage(config, line).refused == {reason: 1}
        (row,) = quarantined(config)
        assert row["reason"] == reason
        assert (row["text"] or "") == (line.split(",")[4] if "SEARCH" in line else "")
        assert acted_on(config) == []

    def test_ids_of_strings(self, tmp_path: Path) -> None:
        config = configured(tmp_path, "string")
        report = stage(
            config, f"a,,SEARCH,{TIME},cook", f"b,search:1,APPLY,{TIME},", f"c,-7,APPLY,{TIME},"
        )
        assert acted_on(config) == [("a", id_of("cook", "string"), "SEARCH"), ("c", "-7", "APPLY")]
        assert report.refused == {"item_id is reserved for texts": 1}

    def test_without_a_text_action_negative_ids_are_items(self, tmp_path: Path) -> None:
        config = configured(tmp_path, actions={"APPLY": "positive"})
        stage(config, f"1,-7,APPLY,{TIME},")
        assert acted_on(config) == [(1, -7, "APPLY")]
        assert not config.layout.searches.exists()

    def test_the_column_is_asked_for_where_it_is_named(self, tmp_path: Path) -> None:
        header = "member_id,item_id,action,event_timestamp"
        plain = configured(tmp_path, actions={"APPLY": "positive"})
        assert stage(plain, f"1,7,APPLY,{TIME}", header=header).rows_out == 1
        with pytest.raises(InputError, match=r"actions\.SEARCH\.text: expected a column 'query'"):
            stage(configured(tmp_path), f"1,7,APPLY,{TIME}", header=header)

    def test_two_actions_with_their_own_columns(self, tmp_path: Path) -> None:
        asks = {**ACTIONS, "ASK": {"text": "question", "sign": "positive"}}
        config = configured(tmp_path, actions=asks)
        stage(
            config,
            f"1,,SEARCH,{TIME},cook,unused",
            f"2,,ASK,{TIME},unused,COOK",
            header=f"{HEADER},question",
        )
        cook = id_of("cook")
        assert acted_on(config) == [(1, cook, "SEARCH"), (2, cook, "ASK")]

    def test_a_search_from_the_future_is_read_when_its_time_has_come(self, tmp_path: Path) -> None:
        config = configured(tmp_path)
        report = stage(config, "1,,SEARCH,2026-03-13 12:00:00,Cook")
        assert report.refused == {"event_timestamp is in the future": 1}
        assert searches(config) == []
        with connect(config) as con:
            stage_activity(config, con, AS_OF + 4 * DAY)
        assert acted_on(config) == [(1, id_of("cook"), "SEARCH")]
        assert searches(config) == [(id_of("cook"), "cook", at("2026-03-13 12:00"))]

    def test_a_text_is_known_since_its_first_event(self, tmp_path: Path) -> None:
        """Whichever run reads it; and searches that are lost are read again."""
        config = configured(tmp_path)
        stage(config, f"1,,SEARCH,{TIME},cook")
        stage(config, f"1,,SEARCH,{TIME},cook", "2,,SEARCH,2026-03-07 12:00:00,cook")
        expected = [(id_of("cook"), "cook", at("2026-03-07 12:00"))]
        assert searches(config) == expected
        config.layout.searches.unlink()
        with connect(config) as con:
            stage_activity(config, con, AS_OF)
        assert searches(config) == expected

    def test_a_text_action_that_is_added_is_read_from_the_start(self, tmp_path: Path) -> None:
        before = configured(tmp_path, actions={"APPLY": "positive", "SEARCH": "neutral"})
        lines = (f"1,,SEARCH,{TIME},cook", f"2,8,APPLY,{TIME},")
        assert stage(before, *lines).refused == {"item_id is null": 1}
        assert stage(configured(tmp_path), *lines).refused == {}
        assert len(acted_on(configured(tmp_path))) == 2

    def test_a_column_of_lists(self, tmp_path: Path) -> None:
        file = tmp_path / "events.parquet"
        config = configured(tmp_path, events={"source": str(file)})
        columns = {"member_id": [1], "item_id": [7], "action": ["APPLY"], "event_timestamp": [WHEN]}
        pq.write_table(pa.table(columns | {"query": [["a"]]}), file)
        with connect(config) as con, pytest.raises(InputError, match=r"actions\.SEARCH\.text: exp"):
            stage_activity(config, con, AS_OF)


class TestItems:
    """What members searched for, beside the items of the source."""

    def staged(self, config: Config, *lines: str) -> tuple[TableReport, list[dict[str, Any]]]:
        Path(config.items.source).write_text("\n".join(lines) + "\n")
        with connect(config) as con:
            report = stage_items(config, con, AS_OF)
        return report, pq.read_table(config.layout.staged_items).to_pylist()

    def test_searches_are_items_of_their_kind(self, tmp_path: Path) -> None:
        config = configured(tmp_path, items={"kind": "what"})
        stage(config, f"1,,SEARCH,{TIME},Cook", "2,,SEARCH,2026-03-10 12:00:00,later")
        report, rows = self.staged(config, "item_id,title,what", "7,Baker,job", "8,Pastry, ")
        assert report == TableReport("stg_items", 2, 3, {})
        assert [
            (row["item_id"], row["kind"], row["text"], row["categories"], row["available_at"])
            for row in rows
        ] == [
            (id_of("cook"), "search", "cook", [], WHEN),
            (7, "job", "Baker", [], at("1970-01-01")),
            (8, None, "Pastry", [], at("1970-01-01")),
        ]

    @pytest.mark.parametrize(
        ("id_type", "line", "reason"),
        [
            ("int64", "-7,Baker,job", "item_id is reserved for texts"),
            ("string", "search:7,Baker,job", "item_id is reserved for texts"),
            ("int64", "7,Baker,search", "kind is search, which is that of texts"),
        ],
    )
    def test_an_item_that_is_refused(
        self, tmp_path: Path, id_type: IdType, line: str, reason: str
    ) -> None:
        config = configured(tmp_path, id_type, items={"kind": "what"})
        report, rows = self.staged(config, "item_id,title,what", line, "8,Pastry,job")
        assert report.refused == {reason: 1}
        assert [row["item_id"] for row in rows] == [8 if id_type == "int64" else "8"]

    def test_without_a_text_action_negative_ids_are_items(self, tmp_path: Path) -> None:
        config = configured(tmp_path, actions={"APPLY": "positive"})
        _, rows = self.staged(config, "item_id,title", "-7,Baker")
        assert [(row["item_id"], row["kind"]) for row in rows] == [(-7, None)]

    def test_a_kind_that_the_source_lacks(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"items\.kind: expected a column 'what'"):
            self.staged(configured(tmp_path, items={"kind": "what"}), "item_id,title", "7,Baker")


def test_items_of_vectors_have_no_encoder_for_a_text(tmp_path: Path) -> None:
    items = {"embedding": "v"}
    file = tmp_path / "activity.yaml"
    file.write_text(yaml.safe_dump({"items": items, "actions": json.loads(json.dumps(ACTIONS))}))
    with pytest.raises(InputError, match=r"\n  actions\.SEARCH\.text: the encoder of the items"):
        load_config(file)
