"""docs/performance.md and its plot, made from the benchmarks' JSON: `python -m benchmarks.report`.

No number is typed by hand: what a JSON does not hold, the page does not say.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
PLOT = HERE.parent / "docs" / "performance.png"

HEADER = """# Performance

Made by `python -m benchmarks.report` from the JSON in `benchmarks/results/`, which `make bench`
writes. One machine of 2 cores; ratios are between sides of the same run. The machine is a shared
one, so single seconds vary from run to run by a third and more; the ratios vary less.

![How many times faster than what a user would do otherwise](performance.png)
"""


def main() -> None:
    """Write the page and the plot."""
    sections = [HEADER]
    ratios: dict[str, float] = {}
    for make in (
        _sequences,
        _embedding,
        _training_join,
        _materialize,
        _stored_bytes,
        _read,
        _stream,
        _request_time,
        _feast,
        _daily,
        _own_data,
        _growth,
    ):
        text, found = make()
        if text:
            sections.append(text)
        ratios.update(found)
    PAGE.write_text("\n".join(sections))
    _plot(ratios)
    print(f"wrote {PAGE.name} and {PLOT.name}")


Section = tuple[str, dict[str, float]]


def _sequences() -> Section:
    rows = _load("sequences")
    table = _table(
        ("way", "events", "seconds", "events per second", "peak memory"),
        (
            (
                row["way"] + (f", memory_limit {row['memory_limit']}" * bool(row["memory_limit"])),
                f"{row['events']:,}",
                f"{row['seconds']:.1f}",
                f"{row['events_per_second']:,}",
                f"{row['peak_rss_mb']:,} MB",
            )
            for row in sorted(rows, key=lambda row: (row["events"], row["seconds"]))
        ),
    )
    speeds = {row["way"]: row["events_per_second"] for row in rows if row["events"] == 20_000_000}
    found = {}
    if "ours" in speeds and "obvious query (DuckDB)" in speeds:
        found["sequences, 20 million events\nagainst list(… order by …)[-32:]"] = (
            speeds["ours"] / speeds["obvious query (DuckDB)"]
        )
    text = f"""## Sequences

The aim: 2 million events per second within 1.5 GB at 20 million events, and 100 million events
within a `memory_limit` of 2 GB. Members are a twentieth of the events. Ours writes and checks the
whole partition, within its `memory_limit`; the others keep the last 32 without the time rules.
pandas is run at a size that it can bear.

{table}

    python -m benchmarks.sequences
"""
    return text, found


def _embedding() -> Section:
    result = _load("embedding")
    speeds = _table(
        ("what", "members per second"),
        ((what, f"{speed:,}") for what, speed in result["members_a_second"].items()),
    )
    memory = _table(
        ("members", "seconds", "peak memory"),
        (
            (f"{one['members']:,}", f"{one['seconds']:.1f}", f"{one['peak_rss'] / 1e6:,.0f} MB")
            for one in result["memory"].values()
        ),
    )
    text = f"""## Embedding

{result["members"]:,} members, {result["items"]:,} items. `embed_snapshot` reads sequences and
writes Parquet; "gathered and embedded" is the model part alone; `predict` is handed tensors that
somebody assembled before.

{speeds}

Memory at once and four times the members, all aggregators together:

{memory}

    python -m benchmarks.embedding
"""
    return text, {}


def _training_join() -> Section:
    result = _load("training_join")
    cases = result["cases"]
    ours = cases["ours"]
    table = _table(
        ("side", "seconds", "peak memory", "time against ours", "memory against ours"),
        (
            (
                name,
                f"{case['seconds']:.1f}",
                f"{case['peak_mb']:,} MB",
                f"{case['seconds'] / ours['seconds']:.2f}",
                f"{case['peak_mb'] / ours['peak_mb']:.2f}",
            )
            for name, case in cases.items()
        ),
    )
    text = f"""## Training join

{result["labels"]:,} labels, {result["members"]:,} members, 30 daily snapshots,
{result["width"]}-float vectors. Feast's DuckDB store is at its
own defaults: there is nothing to set. The aim: 10 times faster than Feast's with a third of the
memory, within 1.5 times of the bare query, and at most 1.3 times as long at 90 snapshots for the
same labels: more history lies before them. Labels over all 90 days need the vectors of three times
as many files. The bare query is `asof left join` at DuckDB's defaults, vectors through the join, no
tie decided; ours keeps to its default `memory_limit`.

{table}
{_from_parquet(result)}
    python -m benchmarks.training_join [--labels-from-parquet 100000000]
"""
    ratio = cases["Feast's DuckDB store"]["seconds"] / ours["seconds"]
    return text, {"training join\nagainst Feast's DuckDB store": ratio}


def _from_parquet(result: dict[str, Any]) -> str:
    """Say how labels on disk were joined, where that was measured."""
    found = result.get("from_parquet")
    if found is None:
        return ""
    return f"""
{found["labels"]:,} labels in a Parquet file, in the order of time, joined into another one of
{found["written_mb"] / 1000:.1f} GB by `to_parquet`: {found["seconds"]:.0f} seconds and
{found["peak_mb"]:,} MB at the peak, all of the process's memory included, with
`memory_limit: {found["memory_limit"]}`.
"""


def _materialize() -> Section:
    result = _load("materialize")
    speed = result["speed"]
    rows = {(row["store"], row["side"]): row for row in speed["rows"]}
    table = _table(
        ("store", "side", "seconds", "peak memory", "time against ours"),
        (
            (
                store,
                {
                    "ours": "ours",
                    "feast": "Feast",
                    "bare": "bare writing of ready bytes",
                    "bare, our table": "bare writing, into the plug-in's table",
                }[side],
                f"{row['seconds']:.1f}",
                f"{row['peak_mb']:,.0f} MB",
                f"{row['seconds'] / rows[store, 'ours']['seconds']:.2f}",
            )
            for (store, side), row in rows.items()
        ),
    )
    text = f"""## Materialization

{speed["members"]:,} members, one {speed["dimension"]}-float vector, a count and a time.
Feast is its local engine with `pull_latest_features: true` and `online_write_batch_size:
{speed["feast_settings"]["online_write_batch_size"]}`. The aim: 8 times faster into SQLite and
PostgreSQL, 12 times into Redis; within 1.5 times (SQLite) and 2 times (Redis) of bare writing.
Bare is `executemany` or a pipeline of redis-py, of bytes made beforehand, in the source's order and
at the store's defaults; the table is plain Feast's, with its second index on the key, or the
plug-in's, without.

{table}
"""
    if "memory" in result:
        memory = result["memory"]
        text += f"""
Ours into {memory["store"]} as the table grows. The aims: 1.2 times the memory, 0.8 of the rate.

"""
        text += _table(
            ("members", "seconds", "members per second", "peak memory"),
            (
                (f"{members:,}", f"{seconds:.1f}", f"{members / seconds:,.0f}", f"{peak:,.0f} MB")
                for members, seconds, peak in zip(
                    memory["sizes"], memory["seconds"], memory["peak_mb"], strict=True
                )
            ),
        )
        text += "\n"
    text += "\n    python -m benchmarks.materialize [--memory]\n"
    return text, {
        f"materialize into {store}\nagainst Feast's local engine": row["seconds"]
        / rows[store, "ours"]["seconds"]
        for (store, side), row in rows.items()
        if side == "feast"
    }


def _stored_bytes() -> Section:
    result = _load("stored_bytes")
    by_form: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in result["rows"]:
        key = row["line"], row["vectors"], row["where"]
        by_form.setdefault(key, {})[row["kept_as"]] = row
    table = _table(
        ("line", "vectors", "where", "float32", "int8", "of which vectors", "share"),
        (
            (
                line,
                f"{vectors}",
                where,
                *(f"{form[kept]['bytes_per_member']:,.0f}" for kept in ("float32", "int8")),
                *_of_vectors(form),
            )
            for (line, vectors, where), form in by_form.items()
        ),
    )
    text = f"""## Bytes per member

What a row takes of a line that says `store="int8"`, against float32: {result["members"]:,} members,
{result["dimension"]} dimensions; the vectors, the counts, the last action and what made the row. Of
Redis it is the memory of a member's key, and what of it is freed with its vectors (names and table
entries too); of SQLite the file, of PostgreSQL the table with its indexes, and the values of the
vectors. The aim: a quarter of the vectors' bytes; {result["dimension"]} + 4 of 4 ·
{result["dimension"]} is {(result["dimension"] + 4) / 4 / result["dimension"]:.2f}.

{table}

    python -m benchmarks.stored_bytes
"""
    return text, {}


def _of_vectors(form: dict[str, Any]) -> tuple[str, str]:
    """Write the bytes of the vectors in both forms, and int8's share."""
    floats, small = (form[kept]["of_vectors"] for kept in ("float32", "int8"))
    if floats is None:
        return "", ""
    return f"{floats:,.0f} → {small:,.0f}", f"{small / floats:.2f}"


def _read() -> Section:
    result = _load("read")
    rows = []
    for case, sides in result["cases"].items():
        ours = sides["ours"]
        rows += [
            (
                case,
                {"ours": "ours", "feast": "Feast", "bare": "bare HMGET and frombuffer"}[side],
                f"{numbers['median_ms']:.2f}",
                f"{numbers['p99_ms']:.2f}",
                f"{numbers['median_ms'] / ours['median_ms']:.1f}",
                f"{numbers['p99_ms'] / ours['p99_ms']:.1f}",
            )
            for side, numbers in sides.items()
        ]
    columns = ("what", "side", "median ms", "p99 ms", "median against ours", "p99 against ours")
    text = f"""## Reads

{result["dimension"]}-float vectors, {result["rows"]:,} rows in the store, {result["repeats"]:,}
reads a side, the sides in turn. Feast is `get_online_features().to_dict()` with
{", ".join(f"{key}: {value}" for key, value in result["feast_settings"].items())}.
The aim: 8 times faster at the median and at p99 for 501 keys, within 2 times of bare reads, and not
slower for one key.

{_table(columns, rows)}

    python -m benchmarks.read
"""
    case = result["cases"]["1 member + 500 items, Redis"]
    ratio = case["feast"]["median_ms"] / case["ours"]["median_ms"]
    return text, {"read 1 member and 500 items, Redis\nagainst get_online_features": ratio}


def _stream() -> Section:
    result = _load("stream")
    (soak,) = (found["at_a_rate"] for found in _load("stream_soak").values())
    any_line = next(iter(result.values()))
    sustained = _table(
        ("aggregators", "workers", "events per second"),
        (
            (line, workers, f"{speed:,}")
            for line, found in result.items()
            for workers, speed in found["events_per_second_by_workers"].items()
        ),
    )
    at_rate = _table(
        ("aggregators", "events per second", "read back", "median ms", "p99 ms", "lost"),
        (
            (
                line,
                f"{found['at_a_rate']['events_per_second']:,}",
                f"{found['at_a_rate']['read_back']:,}",
                f"{found['at_a_rate']['p50_ms']:.0f}",
                f"{found['at_a_rate']['p99_ms']:.0f}",
                f"{found['at_a_rate']['lost']:,}",
            )
            for line, found in result.items()
        ),
    )
    text = f"""## The stream

A private Redis is bus and online store; workers are processes of their own, on the machine's
{any_line["cores"]} cores, which Redis and the sender share. {any_line["members"]:,} members with
a month of actions. The aim: 3,000 events per second into sequences and average and decay, 1,500
with the catalogue's learned aggregator. "Decay and learned" is what the catalogue streams.

{sustained}

From an event put on the bus until `get_online_features` returns its item in the member's sequence
and other vectors than before, with one worker. The aim: a median under 150 ms and p99 under 1 s,
none lost.

{at_rate}

{soak["seconds"] / 60:.0f} minutes at {soak["events_per_second"]} events per second, other work
beside: {soak["lost"]} lost; {soak["descriptors_first"]} descriptors at the beginning and
{soak["descriptors_last"]} at the end; memory
{_at_quarters(soak["memory_mb_by_minute"])}.

    python -m benchmarks.stream [--soak 30]
"""
    return text, {}


def _at_quarters(by_minute: Sequence[float]) -> str:
    places = [len(by_minute) * part // 4 for part in (1, 2, 3)]
    marks = [(place, by_minute[place - 1]) for place in [*places, len(by_minute)]]
    return ", ".join(f"{mb:,.0f} MB after {minute} minutes" for minute, mb in marks)


def _request_time() -> Section:
    result = _load("request_time")
    in_process = _table(
        ("aggregators", "request", "median ms", "p99 ms", "processor ms"),
        (
            (line, what, f"{row['p50']:.2f}", f"{row['p99']:.2f}", f"{row['cpu']:.2f}")
            for line, cases in result["in_process"].items()
            for what, row in cases.items()
        ),
    )
    over_http = _table(
        ("aggregators", "client", "answers a second", "median ms", "p99 ms", "refused"),
        (
            (
                line,
                client,
                f"{row['a_second']:.0f}",
                f"{row['p50']:.1f}",
                f"{row['p99']:.1f}",
                str(row["refused"]),
            )
            for line, clients in result["http"].items()
            for client, row in clients.items()
        ),
    )
    text = f"""## Vectors at request time

{result["members"]:,} members in Redis, {result["items"]:,} items; {result["requests"]:,} requests a
row, one after the other, in one process. The aim for one member with the learned aggregator: a
median under 5 ms, p99 under 15 ms.

{in_process}

Over HTTP at {result["rate"]} requests per second of one member each, for {result["seconds"]:g} s;
client and service share the machine's cores. The aim: p99 under 30 ms.

{over_http}

wrk sends each connection's next request when the last one is answered, so it reaches a little less.

    python -m benchmarks.request_time
"""
    return text, {}


def _feast() -> Section:
    rows = ((name, f"{n['median']:.1f}", f"{n['worst']:.1f}") for name, n in _load("feast").items())
    text = f"""## feast apply

{_table(("what", "median seconds", "worst"), rows)}

    python -m benchmarks.feast_apply
"""
    return text, {}


def _daily() -> Section:
    sizes = _load("daily")
    stages = list(next(iter(sizes.values())))
    table = _table(
        ("stage", *(f"{int(size):,} members" for size in sizes)),
        ((stage, *(f"{sizes[size][stage]:.1f} s" for size in sizes)) for stage in stages),
    )
    text = f"""## Where the time of a run goes

One `activity run` on a fresh data folder: all 60 days of simulated events are new to it.

{table}

    python -m benchmarks.daily
"""
    return text, {}


def _own_data() -> Section:
    result = _load("own_data")
    if not result:
        return "", {}
    many, backfill, rows = result["sequences"], result["backfill"], result["evaluation"]
    table = _table(
        ("work", "another way", "seconds", "ours", "seconds"),
        (
            (
                f"sequences of {many['members']:,} members, {many['as_ofs']} as_ofs",
                "one by one",
                f"{many['one_as_of']['seconds'] * many['as_ofs']:.0f}",
                "one pass over the activity",
                f"{many['all_as_ofs']['seconds']:.1f}",
            ),
            (
                f"backfill, {backfill['data']}, {backfill['one_pass']['made']} snapshots",
                "one by one",
                f"{backfill['one_by_one']['seconds_for_all']:.0f}",
                "one pass",
                f"{backfill['one_pass']['seconds']:.1f}",
            ),
            (
                f"rows for an evaluation, {rows['data']}, {rows['rows_read']['made']:,} labels",
                f"all {rows['rows_read']['snapshots']:,} snapshots, the rows alone",
                f"{rows['all_snapshots']['seconds_for_all']:.0f}",
                "those that a label reads, with their joins",
                f"{rows['rows_read']['seconds']:.1f}",
            ),
        ),
    )
    text = f"""## Anybody's data

IFDB is the votes and lists of the Interactive Fiction Database (https://ifdb.org, CC BY 3.0 US):
117,000 actions of 3,600 members over 18 years. What one snapshot after the other would take is
reckoned from a part.

{table}

    ACTIVITY_IFDB=folder python -m benchmarks.own_data
"""
    return text, {}


def _growth() -> Section:
    rows = []
    for shape, found in _load("growth").items():
        largest = max(found["sizes"], key=int)
        for step, exponent in found["exponents"].items():
            value = found["sizes"][largest][step]
            of_step = f"{value:,} MB" if step == "peak MB" else f"{value:.2f} s"
            rows.append((f"{int(largest):,} {shape}", step, of_step, f"{exponent:.2f}"))
    text = f"""## How it grows

Twice the input takes 2^exponent times the CPU seconds, from the second largest to the largest size.
Memory is bounded by `duckdb.memory_limit`, 1 GB here.

{_table(("input", "step", "CPU or memory", "exponent"), rows)}

    python -m benchmarks.growth
"""
    return text, {}


def _load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plot(ratios: dict[str, float]) -> None:
    names, values = list(ratios), list(ratios.values())
    figure, axes = plt.subplots(figsize=(9, 0.7 * len(names) + 1.2), layout="constrained")
    bars = axes.barh(names, values, color="#3b6ea5")
    axes.bar_label(bars, [f"{value:.1f} times" for value in values], padding=4)
    axes.axvline(1, color="#888888", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.2)
    axes.set_xlabel("times faster, same machine, same run")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
