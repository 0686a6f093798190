"""Pages of one file that need no network: that of an evaluation, and the style of them all."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import plots, words
from pipelines.report.result import Cohort, ColdStart, Interval, Metric, Result, read_result
from pipelines.terminal import visible
from transformations.files import replacing
from transformations.timestamps import day

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "report.js"
TEMPLATE = "report.html.j2"
NAME = "report.html"
# An empty row, so that the forest plots of all metrics have the same rows.
NO_INTERVAL = Interval(estimate=math.nan, low=math.nan, high=math.nan)


def write_report(result: Mapping[str, Any], place: Path) -> Path:
    """Write the page of an evaluation; return its file.

    Args:
        result: What pipelines/report/result.py describes, as read from JSON.
        place: The page's file (it ends in .html), or the folder for report.html.

    Raises:
        InputError: `result` does not match that description.
    """
    checked = read_result(result)
    file = place if place.suffix == ".html" else place / NAME
    write_page(TEMPLATE, _context(checked), file)
    return file


def write_page(template: str, context: Mapping[str, Any], file: Path) -> None:
    """Write a page of this folder's templates, in the report's style.

    Args:
        context: The template's variables, besides the colours of report.css, and report.js with its
            hash: a page's policy allows that script alone, and no requests.
    """
    script = Markup(SCRIPT.read_text())
    page = (
        _environment()
        .get_template(template)
        .render(
            context,
            colours=plots.INK | plots.SERIES,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    with replacing(file) as temporary:
        temporary.write_text(page)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "signed": words.signed,
        "shown_by": words.shown_by,
        "day": day,
        "listed": words.listed,
    }
    return environment


def _shown(value: Any) -> Any:
    """Return a value of a template without control characters, which no page may hold."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _context(result: Result) -> dict[str, Any]:
    """Return the template's variables: the result, and what is drawn or sorted from it."""
    labels = {variant.name: variant.label for variant in result.variants}
    return {
        "result": result,
        "labels": labels,
        "metrics": {metric.key: metric for metric in result.metrics},
        "variants": {variant.name: variant for variant in result.variants},
        "verdict": words.verdict(result),
        "overview": _overview(result, labels),
        "forests": _forests(result, labels),
        "training": {
            name: {base: Markup(svg) for base, svg in plots.training_curves(name, one).items()}
            for name, one in result.training.items()
        },
        "decay": _decay(result),
        "cohorts": _cohorts(result),
        "cold_start": _cold_start(result.cold_start),
        "distributions": _distributions(result),
        "map": Markup(plots.member_map(result.map)) if result.map else None,
        "map_colours": plots.category_colours(result.map.category) if result.map else {},
        "vectors": _vectors(result),
    }


def _forests(result: Result, labels: Mapping[str, str]) -> list[tuple[Metric, Markup]]:
    """Draw one forest plot for each metric with a difference."""
    drawn = []
    for metric in result.metrics:
        rows = [
            (
                variant.label,
                variant.difference.get(metric.key, NO_INTERVAL),
                metric.higher_is_better,
            )
            for variant in result.variants
            if variant.difference
        ]
        if any(difference is not NO_INTERVAL for _, difference, _ in rows):
            what = f"{metric.label}, difference to {labels[result.baseline]}"
            svg = plots.forest(rows, what, labels.get(result.challenger or ""))
            drawn.append((metric, Markup(svg)))
    return drawn


def _overview(result: Result, labels: Mapping[str, str]) -> Markup | None:
    """Draw the challenger's differences, one row per metric."""
    if result.challenger is None:
        return None
    found = next(v.difference for v in result.variants if v.name == result.challenger)
    rows = [
        (metric.label, found[metric.key], metric.higher_is_better)
        for metric in result.metrics
        if metric.key in found
    ]
    what = f"{labels[result.challenger]}, differences to {labels[result.baseline]}"
    return Markup(plots.forest(rows, what)) if rows else None


def _decay(result: Result) -> list[tuple[str, Markup]]:
    labels = {metric.key: metric.label for metric in result.metrics}
    names = dict.fromkeys(point.metric for point in result.decay_grid)
    return [
        (
            labels.get(name, name),
            Markup(
                plots.decay_curve(
                    [point for point in result.decay_grid if point.metric == name],
                    labels.get(name, name),
                )
            ),
        )
        for name in names
    ]


def _cohorts(result: Result) -> list[dict[str, Any]]:
    """Return a table per metric: its columns (variants), its rows, its colour scale."""
    tables = []
    for key in dict.fromkeys(cohort.metric for cohort in result.cohorts):
        rows = [cohort for cohort in result.cohorts if cohort.metric == key]
        names = [v.name for v in result.variants if any(v.name in row.difference for row in rows)]
        groups: dict[str, list[Cohort]] = {}
        for row in rows:
            groups.setdefault(row.cohort, []).append(row)
        sizes = [abs(one.estimate) for row in rows for one in row.difference.values()]
        tables.append(
            {
                "metric": next(metric for metric in result.metrics if metric.key == key),
                "variants": names,
                "groups": groups,
                # Only finite sizes set the scale: with a NaN no cell would get a colour.
                "scale": max((size for size in sizes if size < float("inf")), default=0.0),
            }
        )
    return tables


def _cold_start(ways: list[ColdStart]) -> dict[str, Any]:
    """Group the ways to serve members by which members; list the metrics of any of them."""
    groups: dict[str, list[ColdStart]] = {}
    for way in ways:
        groups.setdefault(way.members, []).append(way)
    return {"groups": groups, "metrics": dict.fromkeys(key for way in ways for key in way.metrics)}


def _vectors(result: Result) -> int:
    """Return how many lists of nearest items fit in a row: all of one aggregator's vectors."""
    each = Counter(near.variant for near in result.members[0].nearest) if result.members else {}
    most = max(each.values(), default=1)
    return most if most > 1 else 4


def _distributions(result: Result) -> dict[str, Markup]:
    if result.distributions is None:
        return {}
    lengths = plots.histogram(result.distributions.sequence_length, "actions in a sequence")
    return {
        "Sequence lengths, members": Markup(lengths),
        "Actions in the sequences": Markup(plots.bars(result.distributions.actions, "actions")),
    }
