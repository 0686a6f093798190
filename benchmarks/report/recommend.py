"""Sections about recommendations: the service, what is broken beside it, the rankers."""

from benchmarks.report.section import Section, load, markdown


def service() -> Section:
    """Recommendations over HTTP, beside what one would write from Feast's docs."""
    result = load("recommend")
    kinds = ("wide_and_deep", "boosted_trees")
    at_a_rate = markdown(
        ("ranker", "median ms", "p99 ms", "highest rate with p99 under the bound"),
        (
            (
                kind,
                f"{result[kind]['open loop']['p50']:.1f}",
                f"{result[kind]['open loop']['p99']:.1f}",
                f"{result[kind]['highest_rate'] or 'none'}",
            )
            for kind in kinds
        ),
    )
    beside = markdown(
        ("side", "median ms", "p99 ms"),
        (
            (side, f"{result[key]['p50']:.1f}", f"{result[key]['p99']:.1f}")
            for side, key in (
                ("ours", "ours_beside"),
                ("Feast's `to_dict` and `model.predict` in FastAPI", "feast_and_keras"),
            )
        ),
    )
    brought = sum(result[kinds[0]]["candidates"].values())
    ratio = result["feast_and_keras"]["p50"] / result["ours_beside"]["p50"]
    text = f"""## Recommendations

`POST /recommend` for one of {result["members"]:,} members, the best 20, by the {kinds[0]} line;
{len(result[kinds[0]]["candidates"])} sources bring {brought:.0f} candidates, an item of several
sources counted in each. {result["rate"]} requests a second, evenly spaced, for
{result["seconds"]:g} s, none answered from the cache; client, service and Redis share the machine's
cores. The aim: a median under 12 ms, p99 under {result["bound_ms"]:g} ms.

{at_a_rate}

One request after the other, beside what a user would write from Feast's docs for 500 items. The
aim: 8 times faster at the median.

{beside}

    python -m benchmarks.recommend
"""
    return text, {"recommend from 500 items\nagainst Feast and Keras in FastAPI": ratio}


def faults() -> Section:
    """Answers while something is broken."""
    result = load("recommend_faults")
    cached = result["cached"]
    table = markdown(
        ("what is broken", "within the deadline", "median ms", "p99 ms", "what answered"),
        (
            (
                "nothing" if fault == "none" else fault,
                f"{found['in_time']:.1%}",
                f"{found['p50']:.0f}",
                f"{found['p99']:.0f}",
                ", ".join(f"{path} {count:,}" for path, count in sorted(found["paths"].items())),
            )
            for fault, found in result["faults"].items()
        ),
    )
    text = f"""## Recommendations while something is broken

{result["asked"]:,} requests over HTTP for each row, {result["rate"]} a second; the deadline is
{result["deadline_ms"]:.0f} ms from when a request was due. The aim: all of them within it. The load
average at the end was {result["load_average"]:.1f}.

{table}

From the cache, one request after the other: a median of {cached["p50"]:.1f} ms, p99
{cached["p99"]:.1f} ms. The aim: a median under 2 ms.

    python -m benchmarks.recommend_faults
"""
    return text, {}


def neighbours() -> Section:
    """The nearest of a million items."""
    result = load("neighbours")
    graph = result["graph"]
    ways = (
        ("a graph, which sources search beyond 50,000 items", "graph"),
        ("all compared with all", "exact"),
        ("the rows of a full sparse product of co-actions", "sparse_product"),
    )
    table = markdown(
        ("way", "seconds", "peak GB"),
        (
            (way, f"{result[key]['seconds']:,.0f}", f"{result[key]['peak_gb']:.1f}")
            for way, key in ways
        ),
    )
    text = f"""## The nearest of {result["items"]:,} items

The {result["nearest"]} nearest of each, {result["dim"]} simulated numbers an item. The graph takes
{graph["build_seconds"]:,.0f} s to build and {graph["search_seconds"]:,.0f} s to search, and finds
{graph["recall"]:.1%} of the nearest. The two others are timed on {result["exact"]["sample"]:,}
items, at whose rate the seconds of all are told. The sparse product is the quickest where items
have actions in common; it has no list for an item that nobody acted on.

{table}

    python -m benchmarks.neighbours --items {result["items"]}
"""
    return text, {}


def rankers() -> Section:
    """How fast rankers train and score."""
    result = load("rankers")
    told = result["training"]
    trained = markdown(
        ("training", "examples a second"),
        ((side, f"{rate:,}") for side, rate in told["examples_a_second"].items()),
    )
    scored = markdown(
        ("kind", "median ms", "p99 ms"),
        (
            (kind, f"{found['median_ms']:.2f}", f"{found['p99_ms']:.2f}")
            for kind, found in result["scoring"].items()
            if kind != "pairs"
        ),
    )
    text = f"""## Rankers

An epoch of `WideAndDeep` on {told["labels"]:,} labels with {told["columns"]} columns, beside
`model.fit` of the same layers on arrays that lie in memory. The aim: 0.7 of its examples a second.

{trained}

{result["scoring"]["pairs"]} pairs of one member, on one core. The aim: 1 to 3 ms.

{scored}

    python -m benchmarks.rankers
"""
    return text, {}
