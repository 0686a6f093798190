"""What a delay costs: the evaluation's test period with vectors that are some time old.

Each label's member row (vectors, counts, last action) is that of a store with a delay of zero, a
minute, an hour or a day (pipelines/evaluation/delayed.py). Item vectors, item popularity (of the
midnight before), labels, the ranker's settings and the seeds are the same for every delay. The
ranker is fitted for each delay, on the train period's labels with the same delay. Nothing is chosen
here.

    python -m benchmarks.freshness --config movietweetings
    python -m benchmarks.freshness page      # only the page and the plot, from the JSON
"""

import argparse
import json
import multiprocessing
import os
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "freshness.json"
PAGE = HERE.parent / "docs" / "realtime.md"
PLOT = HERE.parent / "docs" / "freshness.png"
BEGIN, END = "<!-- begin: python -m benchmarks.freshness page -->", "<!-- end -->"

METRICS = ("hr10_recent", "ndcg10_recent", "ndcg10", "mrr", "auc_random", "auc_dismiss")
DELAYS = {
    "none": timedelta(0),
    "1 minute": timedelta(minutes=1),
    "1 hour": timedelta(hours=1),
    "24 hours": timedelta(hours=24),
}
SNAPSHOT, WRITTEN, NEVER = "daily snapshot", "none, as the stream writes it", "no activity"


def measure(config: Any, seeds: int, max_labels: int | None, console: Console) -> dict[str, Any]:
    """Fit and measure the rankers of every delay, one process per line."""
    from models.spec import Learned
    from operations.ledger import Ledger
    from pipelines.daily import last_midnight, stage_events
    from pipelines.evaluation.protocol import Protocol
    from pipelines.evaluation.world import encode, open_world, train_lines
    from pipelines.progress import Stages
    from transformations.duck import connect

    began = time.perf_counter()
    lines, protocol = compared(), Protocol(seeds=seeds, max_labels=max_labels)
    ledger = Ledger(config)
    with ledger.lock(), ledger.run("freshness", None) as run_id:
        stages = Stages(console, ledger, run_id)
        with connect(config) as con:
            stage_events(config, con, last_midnight(), stages)
            world = open_world(config, con, protocol)
            encode(world, con, stages)
        train_lines(world, stages, lines)
        with stages.stage("rankers") as stage:
            tasks = [(config, isinstance(line, Learned), protocol) for line in lines]
            with multiprocessing.get_context("spawn").Pool(len(tasks)) as pool:
                found = pool.starmap(measure_line, tasks)
            stage.rows_out = sum(len(one["rows"]) for _, one in found) * seeds
    context = found[0][0]
    return context | {
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "lines": {line.name: rows for line, (_, rows) in zip(lines, found, strict=True)},
    }


def compared() -> tuple[Any, Any]:
    """Return the catalogue's learned line and its decayed vectors."""
    from models.catalog import AGGREGATORS
    from models.spec import GeometricDecay, Learned

    learned = next(line for line in AGGREGATORS if isinstance(line, Learned))
    return learned, next(line for line in AGGREGATORS if isinstance(line, GeometricDecay))


def measure_line(
    config: Any, is_learned: bool, protocol: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit and measure one line's rankers; return the context, and the results."""
    # Before TensorFlow is imported: two processes share the cores.
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="2")
    from models.evaluation.bootstrap import Resamples
    from models.evaluation.compare import METRICS as KNOWN
    from models.evaluation.compare import estimates
    from models.evaluation.ranker import RankerSettings
    from pipelines.evaluation.delayed import Log, as_written, features_as_of, late, without_repeats
    from pipelines.evaluation.features import read_data
    from pipelines.evaluation.result import data_name
    from pipelines.evaluation.variants import Variant, measure_all, without_activity
    from pipelines.evaluation.world import open_world
    from serving.request.item_table import open_item_table
    from transformations.duck import connect
    from transformations.timestamps import DAY_US

    line = compared()[0 if is_learned else 1]
    with connect(config) as con:
        world = open_world(config, con, protocol)
        own, split = world.config, world.split
        data = read_data(world, con, protocol, ("train", "test"))
        log = Log.read(world, con, data.member_codes)
    periods = {name: without_repeats(period, data, log) for name, period in data.periods.items()}
    data = replace(data, periods=periods)
    items = open_item_table(own)
    as_of: dict[str, Callable[[Any], Any]] = {
        name: lambda period, delay=delay: late(period, delay) for name, delay in DELAYS.items()
    }
    as_of[WRITTEN] = lambda period: as_written(log, period)
    as_of[SNAPSHOT] = lambda period: period.task.labels.days * DAY_US
    resamples = Resamples(len(data.member_codes), protocol.seeds, protocol.resamples)
    labels = periods["test"].task.labels

    def fitted(variant: Variant) -> Any:
        variant.settings = RankerSettings()
        measure_all(variant, data, range(protocol.seeds))
        return estimates(variant.scores, labels, resamples, metrics=METRICS)

    found: dict[str, Any] = {}
    for name, as_of_labels in as_of.items():
        features = {
            each: features_as_of([line], own, items, log, period, as_of_labels(period))[0]
            for each, period in periods.items()
        }
        variant = Variant(line.name, line, features)
        found[name] = fitted(variant)
    found[NEVER] = fitted(without_activity(variant))
    context = {
        "data": data_name(config),
        "window_days": config.window.days,
        "publish_delay_hours": config.publish_delay.total_seconds() / 3600,
        "item_encoder": str(config.space),
        "labels": {name: len(period.frame) for name, period in periods.items()},
        "positive_test_labels": int(labels.positive.sum()),
        "test": [split.validation_until.isoformat(), split.test_until.isoformat()],
        "members": len(np.unique(labels.members)),
        "seeds": protocol.seeds,
        "resamples": protocol.resamples,
        "max_labels": protocol.max_labels,
        "acted_before_within": _waits(log, periods["test"]),
        "metrics": {key: KNOWN[key].label for key in METRICS},
    }
    rows = {
        name: {
            key: {
                "value": asdict(value.interval()),
                "minus_none": asdict((value - found["none"][key]).interval()),
            }
            for key, value in values.items()
        }
        for name, values in found.items()
    }
    return context, {"label": _label(line), "rows": rows}


def _label(line: Any) -> str:
    decay = line.parameters().get("decay")
    return f"decayed vectors, r = {decay}" if decay else line.name.replace("_", " ")


def _waits(log: Any, period: Any) -> dict[str, float]:
    """Return the share of labels whose member acted within each delay before.

    It bounds the cost of a delay: for older actions, the delay changes nothing.
    """
    labels = period.task.labels
    rows, actions = log.before(labels.members, labels.times)
    last = np.full(len(labels), np.iinfo(np.int64).min // 2)
    last[rows] = log.actions.timestamp[actions]
    ages = labels.times - last
    return {
        name: round(float((ages <= delay / timedelta(microseconds=1)).mean()), 4)
        for name, delay in DELAYS.items()
        if delay
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the differences."""
    for line in result["lines"].values():
        table = Table(title=f"{line['label']}: minus no delay", title_justify="left")
        for name in ("delay", *result["metrics"].values()):
            table.add_column(name)
        for delay, metrics in line["rows"].items():
            table.add_row(delay, *(_cell(delay, metrics[key]) for key in result["metrics"]))
        console.print(table)


def _cell(delay: str, metric: Mapping[str, Any]) -> str:
    if delay == "none":
        return f"{metric['value']['estimate']:.4f}"
    found = metric["minus_none"]
    text = f"{found['estimate']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text


def write_page(result: Mapping[str, Any]) -> None:
    """Write the tables between the marks in docs/realtime.md, and draw the plot."""
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{_section(result)}\n{END}{after}")
    _plot(result)
    print(f"wrote {PAGE.name} and {PLOT.name}")


def _section(result: Mapping[str, Any]) -> str:
    labels, test = result["labels"], result["test"]
    within = result["acted_before_within"]
    shares = ", ".join(f"{share:.0%} within {delay}" for delay, share in within.items())
    what = (
        f"{result['data']}, {test[0][:10]} to {test[1][:10]}: {labels['test']:,} labels "
        f"({result['positive_test_labels']:,} positive) of {result['members']:,} members, item "
        f"vectors of {result['item_encoder']}; {result['seeds']} seeds, 95 % intervals of "
        f"{result['resamples']:,} paired resamples of members and seeds. The row `none` shows the "
        "metric, the other rows their difference to it, in bold where the whole interval is on one "
        f"side of zero. Share of labels whose member had acted before: {shares}."
    )
    text = [textwrap.fill(what, 100)]
    for line in result["lines"].values():
        text += ["", f"**{line['label']}**", "", _markdown(result, line)]
    text += ["", *(textwrap.fill(_worth(line), 100) for line in result["lines"].values())]
    return "\n".join(text)


def _worth(line: Mapping[str, Any], key: str = "auc_random") -> str:
    """Say what share of the gain from a member's activity each delay loses, on one metric."""
    lost = {name: -row[key]["minus_none"]["estimate"] for name, row in line["rows"].items()}
    shares = ", ".join(
        f"{name} loses {lost[name] / lost[NEVER]:.0%}" for name in (*DELAYS, SNAPSHOT) if lost[name]
    )
    return (
        f"With the {line['label']} and no delay, a member's activity adds {lost[NEVER]:.4f} to the "
        f"AUC against a random item; of that, {shares}."
    )


def _markdown(result: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    names = ["delay", *result["metrics"].values()]
    rows = [
        [delay, *(_cell(delay, metrics[key]) for key in result["metrics"])]
        for delay, metrics in line["rows"].items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows])


def _plot(result: Mapping[str, Any]) -> None:
    shown = [*DELAYS, SNAPSHOT]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    colors = ("#3b6ea5", "#c2703d")
    for panel, (key, label) in zip(axes.flat, result["metrics"].items(), strict=True):
        panel.axhline(0, color="#888888", linewidth=1)
        for nth, (color, line) in enumerate(zip(colors, result["lines"].values(), strict=True)):
            found = [line["rows"][delay][key]["minus_none"] for delay in shown]
            middle = np.array([one["estimate"] for one in found])
            low, high = (np.array([one[end] for one in found]) for end in ("low", "high"))
            positions = np.arange(len(shown)) + (nth - 0.5) * 0.16
            panel.errorbar(
                positions, middle, [middle - low, high - middle], fmt="o", color=color, capsize=3,
                markersize=5, label=line["label"],
            )  # fmt: skip
        panel.set_title(label, fontsize=10, loc="left")
        panel.set_xticks(range(len(shown)), [name.replace(" ", "\n") for name in shown], fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.ticklabel_format(axis="y", style="plain", useOffset=False)
        panel.tick_params(axis="y", labelsize=9)
    for panel in axes[:, 0]:
        panel.set_ylabel("minus no delay", fontsize=9)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), frameon=False, fontsize=9, ncols=2,
        loc="outside lower center",
    )  # fmt: skip
    figure.suptitle(f"What a delay costs: {result['data']}, 95 % intervals", fontsize=11)
    figure.savefig(PLOT, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print the tables, write the JSON, the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", choices=["page"], help="only write the page, from the JSON"
    )
    parser.add_argument("--config", default="movietweetings")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--max-labels", type=int, help="a quick run that keeps no result")
    options = parser.parse_args()
    if options.what == "page":
        write_page(json.loads(RESULTS.read_text()))
        return
    from transformations.config import load_config
    from transformations.errors import InputError

    try:
        config = load_config(options.config)
    except InputError as error:
        # `make bench` goes on: the data are not in the repository.
        print(f"skipped: {error}; CONTRIBUTING.md says how to make it")
        return
    console = Console(width=200)
    result = measure(config, options.seeds, options.max_labels, console)
    show(result, console)
    if options.max_labels is None:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        write_page(result)


if __name__ == "__main__":
    main()
