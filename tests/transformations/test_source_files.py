"""Files as they come: every one that is meant, whatever its names, line ends, types and folders."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transformations.test_sources import from_files, quarantined, stage, staged
from tests.worlds.events import AS_OF, DAY, Event
from transformations.errors import InputError
from transformations.readers import timestamp_expression
from transformations.sources.csv_files import Layout, with_one_line_end
from transformations.sources.files import find, group, say_passed_over

NAMES = ("member_id", "item_id", "action", "event_timestamp")
AT = AS_OF - DAY
TIMES = [(AT + timedelta(minutes=n)).isoformat() for n in range(9)]
EVENTS = [Event(n, 10 + n, "APPLY", AT + timedelta(minutes=n)) for n in range(9)]
ROWS = [f"{n},{10 + n},APPLY,{time}" for n, time in enumerate(TIMES)]
HEADER = ",".join(NAMES)
PLAIN: dict[str, Any] = {"columns": {"ingested_at": None}}


def of_bytes(folder: Path, content: bytes, name: str = "a.csv", **columns: str) -> Any:
    file = folder / "source" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return from_files(folder, events={"columns": {"ingested_at": None, **columns}})


def write_parquet(path: Path, events: list[Event], **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: [getattr(event, name) for event in events] for name in NAMES}
    pq.write_table(pa.table(arrays | columns), path)


# --- CSV ------------------------------------------------------------------------------------------


def lines(*ends: str, header: str = HEADER, rows: list[str] = ROWS) -> bytes:
    """The header and three rows, with these line ends (the last one again and again)."""
    all_lines = [header, *rows[:3]]
    turns = [*ends, *[ends[-1]] * 9]
    return "".join(line + end for line, end in zip(all_lines, turns, strict=False)).encode()


AS_THEY_COME = {
    "LF": lines("\n"),
    "CRLF": lines("\r\n"),
    "CR": lines("\r"),
    "one LF among CRLF": lines("\r\n", "\n", "\r\n"),
    "one CRLF among LF": lines("\n", "\r\n", "\n"),
    "LF after the header only": lines("\n", "\r\n"),
    "no end of the last line": lines("\n").rstrip(),
    "no end of the last line after CRLF and LF": lines("\r\n", "\n").rstrip(),
    "a byte order mark": b"\xef\xbb\xbf" + lines("\n"),
    "a blank first line": b"\n" + lines("\n"),
    "blank first lines": b"\r\n  \r\n" + lines("\r\n"),
    "a blank line in between": lines("\n").replace(b"\n1,", b"\n\n1,"),
    "a byte order mark and a blank line": b"\xef\xbb\xbf\n" + lines("\n"),
    "pandas' index": lines(
        "\n", header="," + HEADER, rows=[f"{n},{row}" for n, row in enumerate(ROWS)]
    ),
    "a trailing comma": lines("\n", header=HEADER + ",", rows=[row + "," for row in ROWS]),
    "a trailing comma of the header": lines("\n", header=HEADER + ","),
    "a trailing comma of the rows": lines("\n", rows=[row + "," for row in ROWS]),
    "two columns without a name": lines(
        "\n", header=f",{HEADER},", rows=[f"x,{row},y" for row in ROWS]
    ),
    "Action beside action": lines(
        "\n", header=f"Action,{HEADER}", rows=[f"SAVE,{row}" for row in ROWS]
    ),
    "ITEM_ID after item_id": lines(
        "\n", header=f"{HEADER},ITEM_ID", rows=[f"{row},777" for row in ROWS]
    ),
    "a name twice that nobody asks for": lines(
        "\n", header=f"x,{HEADER},x", rows=[f"1,{row},2" for row in ROWS]
    ),
    "DuckDB's names": lines(
        "\n",
        header=f"filename,{HEADER},Column_0,__source_file",
        rows=[f"1,{row},2,3" for row in ROWS],
    ),
    "semicolons": lines("\n").replace(b",", b";"),
    "tabs": lines("\r\n").replace(b",", b"\t"),
    "a quoted header": lines("\n", header='"member_id","item_id","action","event_timestamp"'),
    "a header of two lines": lines(
        "\n", header=f'{HEADER},"a\nb"', rows=[f"{row},x" for row in ROWS]
    ),
}


@pytest.mark.parametrize("content", AS_THEY_COME.values(), ids=AS_THEY_COME)
def test_a_csv_as_it_comes(tmp_path: Path, content: bytes) -> None:
    config = of_bytes(tmp_path, content)
    report = stage(config)
    assert (report.rows_in, report.refused) == (3, {})
    assert sorted(staged(config)) == EVENTS[:3]


NOTED = f"{HEADER},note"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("x\ry", "x\ry"),
        ('"x\ry"', "x\ry"),
        ('"x\r\ny"', "x\r\ny"),
        ('"x\ny"', "x\ny"),
        ('"x""\ry"', 'x"\ry'),
        ("x\r", "x"),
    ],
)
def test_a_line_end_in_a_text_is_text(tmp_path: Path, note: str, expected: str, end: str) -> None:
    content = end.join([NOTED, f"{ROWS[0]},{note}", f"{ROWS[1]},z", ""]).encode()
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with duckdb.connect() as con:
        [files] = group(con, [file], {}, tmp_path, tmp_path)
        rows = con.execute(f"select member_id, note from ({files.query}) order by 1").fetchall()
    if note == "x\r" and end == "\r\n":
        expected = "x\r"  # CR CR LF: the last two end the line
    assert rows == [("0", expected), ("1", "z")]


BAD_ROWS = {
    "too few fields": "9,9,APPLY",
    "too many fields": f"{ROWS[3]},x,y",
    "an open quote within": f'9,19,"AP"PLY,{TIMES[0]}',
    "not UTF-8": "9,19,\udcff,2026-01-01",
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\n, one \n"])
@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_goes_to_quarantine_and_no_other(tmp_path: Path, bad: str, end: str) -> None:
    content = lines(
        *(["\r\n", "\n", "\r\n"] if "," in end else [end]), rows=[*ROWS[:1], "BAD", *ROWS[1:]]
    )
    config = of_bytes(tmp_path, content.replace(b"BAD", bad.encode(errors="surrogateescape")))
    report = stage(config)
    assert sorted(staged(config)) == EVENTS[:2]
    assert report.refused == {"line is malformed": 1}
    [row] = quarantined(config)
    assert row["source"] == "a.csv"
    assert row["line"].startswith("9,") or bad.startswith(ROWS[3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected files that end in .*the file is empty: a\.csv"),
        (b"\n\n", r"a\.csv: expected a header with the names of its columns, got no line"),
        (b",,,\n1,2,3,4\n", r"a\.csv: expected a header with names, got ',,,'"),
        (b"a,b\n1,2\n", r"expected a column 'member_id' in .*a\.csv, which has: a, b$"),
        (
            f"{HEADER},action\n".encode(),
            r"one column 'action' in .*a\.csv, got the header",
        ),
        (b"\xff\xfea\n", r"a\.csv cannot be read as CSV in UTF-8"),
    ],
)
def test_a_bad_header_names_the_file_and_the_header(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stage(of_bytes(tmp_path, content))


def test_names_that_differ_only_in_letter_case_are_refused_where_both_are_wanted(
    tmp_path: Path,
) -> None:
    content = lines("\n", header=HEADER.replace("item_id", "Action"))
    with pytest.raises(InputError, match=r"a\.csv: expected columns whose names differ"):
        stage(of_bytes(tmp_path, content, item_id="Action"))


@settings(max_examples=60, deadline=None)
@given(
    fields=st.lists(
        st.lists(st.text(st.sampled_from('ab,"\r\n'), max_size=4), min_size=2, max_size=2),
        min_size=1,
        max_size=4,
    ),
    ends=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=5, max_size=5),
    quote_all=st.booleans(),
)
def test_any_line_ends_and_texts_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    fields: list[list[str]],
    ends: list[str],
    quote_all: bool,
) -> None:
    """A writer quotes what it must; some leave a bare CR unquoted."""
    folder = tmp_path_factory.mktemp("ends")

    def written(text: str) -> str:
        must = any(mark in text for mark in ',"\n') or text.endswith("\r") or quote_all
        return '"' + text.replace('"', '""') + '"' if must else text

    rows = [["a", "b"], *fields]
    text = "".join(",".join(map(written, row)) + end for row, end in zip(rows, ends, strict=False))
    (folder / "a.csv").write_bytes(text.encode())
    with_one_line_end(folder / "a.csv", Layout(",", "none", 0), folder / "copy.csv")
    with duckdb.connect() as con:
        read = con.execute(
            f"select * from read_csv('{folder / 'copy.csv'}', auto_detect = false, header = true, "
            "delim = ',', quote = '\"', escape = '\"', columns = {'a': 'varchar', 'b': 'varchar'})"
        ).fetchall()
    expected = [tuple(None if value == "" else value for value in row) for row in fields]
    assert [tuple(value or None for value in row) for row in read] == expected


# --- which files ----------------------------------------------------------------------------------


def test_every_file_that_is_meant_is_read_and_no_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    names = ["a.csv", "b.CSV", "c.tsv", "d.csv.gz", "e.CSV.GZ", "f.csv.zst", "g.PARQUET"]
    for number, name in enumerate(names):
        file = source / "deep" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = f"{HEADER}\n{ROWS[number]}\n".encode()
        if name.lower().endswith("gz"):
            content = gzip.compress(content)
        if name.endswith("zst"):
            content = pa.Codec("zstd").compress(content, asbytes=True)
        if name.endswith("tsv"):
            content = content.replace(b",", b"\t")
        file.write_bytes(content)
    write_parquet(source / "deep" / "g.PARQUET", EVENTS[6:7])
    write_parquet(tmp_path / "elsewhere" / "h.parquet", EVENTS[7:8])
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "round").symlink_to(source)
    (source / "broken.csv").symlink_to(tmp_path / "gone.csv")
    for name in (
        ".ipynb_checkpoints/a.csv", "_temporary/0/a.csv", "_delta_log/0.parquet", ".hidden.csv",
        "_SUCCESS", "notes.txt", "empty.csv", "a.json",
    ):  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("" if name == "empty.csv" else "nothing of ours")
    config = from_files(tmp_path, events=PLAIN)
    assert stage(config).rows_in == 8
    assert sorted(staged(config)) == EVENTS[:8]
    reasons = {
        "the name begins with . or _": ".hidden.csv, .ipynb_checkpoints, _SUCCESS and 2 more",
        "the name has another end than .parquet, .csv, .csv.gz, .csv.zst, .tsv, .tsv.gz, "
        ".tsv.zst": "a.json, notes.txt",
        "the link leads nowhere": "broken.csv",
        "the file is empty": "empty.csv",
        "the link leads to a folder that is read already": "round",
    }
    assert say_passed_over(config, ("events",)) == [
        f"events.source: passed over, because {why}: {files}" for why, files in reasons.items()
    ]


@pytest.mark.parametrize("folder", ["w[v2]", "w*", "w?", "it's", "a,b"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "mixed"])
def test_a_name_is_no_pattern(tmp_path: Path, folder: str, kind: str) -> None:
    inside = tmp_path / folder
    if kind == "parquet":
        write_parquet(inside / "source" / "e[1].parquet", EVENTS[:3])
    else:
        (inside / "source").mkdir(parents=True)
        ends = ["\r\n", "\n"] if kind == "mixed" else ["\n"]
        (inside / "source" / "e[1].csv").write_bytes(lines(*ends))
    (tmp_path / "wv").mkdir()
    write_parquet(tmp_path / "wv" / "source" / "e1.parquet", EVENTS[5:6])
    config = from_files(inside, events=PLAIN)
    assert stage(config).rows_out == 3
    assert stage(config).rows_in == 0  # and what was staged is found again
    assert sorted(staged(config)) == EVENTS[:3]


@pytest.mark.parametrize("name", ["source.txt", "source"])
def test_nothing_to_read_says_what_was_passed_over(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if name == "source":
        source.mkdir()
        (source / "a.json").write_text("{}")
    else:
        source.write_text("x")
    with pytest.raises(InputError, match="another end than"):
        find("events.source", source)


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_file_overrules_its_folder(tmp_path: Path, kind: str) -> None:
    when = datetime(2026, 2, 3, 17, 45, tzinfo=UTC)
    folder = tmp_path / "source" / "when=2026-02-03"
    folder.mkdir(parents=True)
    if kind == "parquet":
        columns = {"member_id": [1], "item_id": [2], "action": ["APPLY"], "when": [when]}
        pq.write_table(pa.table(columns), folder / "a.parquet")
    else:
        (folder / "a.csv").write_text(f"member_id,item_id,action,when\n1,2,APPLY,{when}\n")
    config = from_files(
        tmp_path, events={"columns": {"event_timestamp": "when", "ingested_at": None}}
    )
    stage(config)
    assert staged(config) == [Event(1, 2, "APPLY", when)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "mixed"])
def test_a_folder_gives_a_column_that_its_files_lack(tmp_path: Path, kind: str) -> None:
    """Of the folders below the source only; `%20` is a space, as pandas and Spark write it."""
    source = tmp_path / "action=SAVE" / "source"
    for number, action in enumerate(("APPLY", "SAVE")):
        file = source / f"action={action}" / "kind=a%20b" / f"a.{kind}"
        if kind == "parquet":
            write_parquet(file, EVENTS[number : number + 1])
            pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["action"]), file)
        else:
            file = file.with_suffix(".csv")
            file.parent.mkdir(parents=True)
            header = "member_id,item_id,event_timestamp"
            row = ROWS[number].replace(",APPLY", "")
            ends = ["\r\n", "\n"] if kind == "mixed" else ["\n"]
            file.write_bytes(f"{header}{ends[0]}{row}{ends[-1]}".encode())
    config = from_files(source.parent, events=PLAIN)
    stage(config)
    assert sorted(staged(config)) == [EVENTS[0], EVENTS[1]._replace(action="SAVE")]
    [refused] = {row["source"] for row in quarantined(config)} or {None}
    assert refused is None
    with pytest.raises(InputError, match="expected a column 'action'"):
        stage(from_files(source.parent, source="source/action=SAVE", events=PLAIN))


# --- types and names ------------------------------------------------------------------------------


def test_files_of_other_types_and_names_that_are_duckdbs(tmp_path: Path) -> None:
    first = {"member_id": [0], "FILENAME": ["x"], "file_row_number": [7], "__Source_File": ["y"]}
    write_parquet(tmp_path / "source" / "a.parquet", EVENTS[:1], **first)
    floats = pa.array([1.0])
    write_parquet(tmp_path / "source" / "b.parquet", EVENTS[1:2], member_id=floats)
    texts = pa.array(["2"]).dictionary_encode()
    columns = {"item_id": pa.array(["12"]), "member_id": texts}
    write_parquet(tmp_path / "source" / "c.parquet", EVENTS[2:3], **columns)
    write_parquet(tmp_path / "source" / "d.parquet", EVENTS[3:4], action=pa.nulls(1))
    write_parquet(tmp_path / "source" / "e.parquet", EVENTS[4:5], Action=["SAVE"], ACTION=["SAVE"])
    config = from_files(tmp_path, events=PLAIN)
    report = stage(config)
    assert sorted(staged(config)) == [*EVENTS[:3], EVENTS[4]]
    assert report.refused == {"action is unknown": 1}
    assert [row["source"] for row in quarantined(config)] == ["d.parquet"]


NS = 1_767_225_600_123_456_789


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("number", [NS, NS - 289, NS - 788, NS - 790])
def test_nanoseconds_are_cut(tmp_path: Path, zone: str | None, number: int) -> None:
    times = pa.array([number], pa.timestamp("ns", zone))
    write_parquet(tmp_path / "source" / "a.parquet", EVENTS[:1], event_timestamp=times)
    config = from_files(tmp_path, events=PLAIN)
    stage(config)
    [event] = staged(config)
    assert event.event_timestamp == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=number // 1000
    )


@given(number=st.integers(-(2**62), 2**62))
@settings(max_examples=30, deadline=None)
def test_any_nanoseconds_are_cut_towards_the_past(number: int) -> None:
    for zone, kind in ((None, "TIMESTAMP_NS"), ("UTC", "TIMESTAMPTZ_NS")):
        times = pa.table({"at": pa.array([number], pa.timestamp("ns", zone))})
        sql = timestamp_expression("events", "at", kind, "timestamp")
        with duckdb.connect() as con:
            con.register("times", times)
            [(us,)] = con.execute(f"select epoch_us({sql}) from times").fetchall()
        assert us == number // 1000
