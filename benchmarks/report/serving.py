"""Sections about what serves: the stores, the stream, vectors at request time."""

from collections.abc import Sequence
from typing import Any

from benchmarks.report.section import Section, load, markdown


def materialize() -> Section:
    """Vectors into the online stores."""
    result = load("materialize")
    speed = result["speed"]
    rows = {(row["store"], row["side"]): row for row in speed["rows"]}
    table = markdown(
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
        text += markdown(
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


def stored_bytes() -> Section:
    """What a member takes, as float32 and as int8."""
    result = load("stored_bytes")
    by_form: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in result["rows"]:
        key = row["line"], row["vectors"], row["where"]
        by_form.setdefault(key, {})[row["kept_as"]] = row
    table = markdown(
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


def read() -> Section:
    """Vectors out of the online stores."""
    result = load("read")
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

{markdown(columns, rows)}

    python -m benchmarks.read
"""
    case = result["cases"]["1 member + 500 items, Redis"]
    ratio = case["feast"]["median_ms"] / case["ours"]["median_ms"]
    return text, {"read 1 member and 500 items, Redis\nagainst get_online_features": ratio}


def stream() -> Section:
    """Events per second, and how soon they can be read."""
    result = load("stream")
    (soak,) = (found["at_a_rate"] for found in load("stream_soak").values())
    any_line = next(iter(result.values()))
    sustained = markdown(
        ("aggregators", "workers", "events per second"),
        (
            (line, workers, f"{speed:,}")
            for line, found in result.items()
            for workers, speed in found["events_per_second_by_workers"].items()
        ),
    )
    at_rate = markdown(
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


def request_time() -> Section:
    """Vectors made at request time."""
    result = load("request_time")
    in_process = markdown(
        ("aggregators", "request", "median ms", "p99 ms", "processor ms"),
        (
            (line, what, f"{row['p50']:.2f}", f"{row['p99']:.2f}", f"{row['cpu']:.2f}")
            for line, cases in result["in_process"].items()
            for what, row in cases.items()
        ),
    )
    over_http = markdown(
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


def feast() -> Section:
    """`feast apply` and what it imports."""
    rows = ((name, f"{n['median']:.1f}", f"{n['worst']:.1f}") for name, n in load("feast").items())
    text = f"""## feast apply

{markdown(("what", "median seconds", "worst"), rows)}

    python -m benchmarks.feast_apply
"""
    return text, {}
