"""Sections about what is computed from days of events: sequences, items, vectors, joins."""

from typing import Any

from benchmarks.report.section import Section, load, markdown


def sequences() -> Section:
    """Member sequences of a snapshot."""
    rows = load("sequences")
    table = markdown(
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


def embedding() -> Section:
    """Vectors of a snapshot."""
    result = load("embedding")
    speeds = markdown(
        ("what", "members per second"),
        ((what, f"{speed:,}") for what, speed in result["members_a_second"].items()),
    )
    memory = markdown(
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


def items() -> Section:
    """How long encoders that read activity are fitted, and how fast they fold items in."""
    result = load("items")
    names = {
        "co_actions": "`CoActions`",
        "skip_gram": "`SkipGram`",
        "bare_gensim": "bare gensim, one thread",
    }
    rows = []
    for name, of in result["parts"].items():
        seconds = of["seconds"]
        rate = f"{60 * result['items'] / seconds['fold_in']:,.0f}" if "fold_in" in seconds else ""
        rows.append((names[name], f"{seconds['fit']:.0f}", rate, f"{of['peak_mb'] / 1000:.1f} GB"))
    columns = ("encoder", "seconds of the fit", "items folded in per minute", "peak memory")
    text = f"""## Item encoders that read activity

{result["members"]:,} sequences of {result["length"]} simulated actions over {result["items"]:,}
items, {result["dim"]} dimensions, without texts. gensim is given the same sentences as lists of
words, and the same epochs; the lists are made before it is timed, but count in its memory.

{markdown(columns, rows)}

    python -m benchmarks.items
"""
    return text, {}


def training_join() -> Section:
    """Vectors as of each label."""
    result = load("training_join")
    cases = result["cases"]
    ours = cases["ours"]
    table = markdown(
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


def training() -> Section:
    """How fast the default learned aggregator trains."""
    result = load("training")
    parts = {"input": "the input alone", "step": "the step alone", "both": "both"}
    table = markdown(
        ("what", "examples a second"),
        ((told, f"{result['examples_a_second'][name]:,}") for name, told in parts.items()),
    )
    text = f"""## Training an aggregator

The default learned line on MovieTweetings: {result["examples"]:,} examples,
{result["positives"]:,} of them positive, {sum(result["passes"].values())} passes, in
{result["seconds_training"]:.0f} s. Where the input alone is well above the step, the model is never
starved.

{table}

    python -m benchmarks.training
"""
    return text, {}


def daily() -> Section:
    """The stages of a run."""
    sizes = load("daily")
    stages = list(next(iter(sizes.values())))
    table = markdown(
        ("stage", *(f"{int(size):,} members" for size in sizes)),
        ((stage, *(f"{sizes[size][stage]:.1f} s" for size in sizes)) for stage in stages),
    )
    text = f"""## Where the time of a run goes

One `activity run` on a fresh data folder: all 60 days of simulated events are new to it.

{table}

    python -m benchmarks.daily
"""
    return text, {}


def own_data() -> Section:
    """Sequences, a backfill and an evaluation's rows of anybody's data."""
    result = load("own_data")
    if not result:
        return "", {}
    many, backfill, rows = result["sequences"], result["backfill"], result["evaluation"]
    table = markdown(
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


def growth() -> Section:
    """How time and memory grow with the input."""
    rows = []
    for shape, found in load("growth").items():
        largest = max(found["sizes"], key=int)
        for step, exponent in found["exponents"].items():
            value = found["sizes"][largest][step]
            of_step = f"{value:,} MB" if step == "peak MB" else f"{value:.2f} s"
            rows.append((f"{int(largest):,} {shape}", step, of_step, f"{exponent:.2f}"))
    text = f"""## How it grows

Twice the input takes 2^exponent times the CPU seconds, from the second largest to the largest size.
Memory is bounded by `duckdb.memory_limit`, 1 GB here.

{markdown(("input", "step", "CPU or memory", "exponent"), rows)}

    python -m benchmarks.growth
"""
    return text, {}
