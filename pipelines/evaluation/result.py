"""The result of an evaluation as JSON, which the report and the docs are made from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.evaluation.bootstrap import Estimate
from models.evaluation.cohorts import cohorts
from models.evaluation.compare import METRICS, estimates
from models.evaluation.promises import Control, Promise, at_most, clear_gain, no_clear_loss
from models.quantization import bytes_per_member
from models.spec import Learned
from pipelines.evaluation.controls import too_good
from pipelines.evaluation.features import cohort_columns
from pipelines.evaluation.gaps import figures, gaps, measured
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.variants import CHOSEN_BY, Comparison
from pipelines.report.data import distributions, member_map, shown_members
from transformations.config import Config
from transformations.duck import connect

HOUR = timedelta(hours=1)
COHORT_METRICS = (CHOSEN_BY, "auc_random")
MUST_GAIN = ("hr10_recent", "auc_random")
"""Metrics on which the challenger must be clearly better than the baseline; on the others it must
not be clearly worse."""
GENERIC = ("/", "data", "source", "events", "events.parquet", "events.csv")
DISPLAY_NAMES = {
    "none": "no activity",
    "popular": "popular in the last 7 days",
    "cooccurrence": "decayed co-occurrence, last 10",
}


def result_of(
    comparison: Comparison,
    protocol: Protocol,
    manifests: Mapping[str, dict[str, Any]],
    grid: Mapping[float, float],
    controlled: Sequence[Control],
    costs: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Return what pipelines/report/result.py describes, as JSON values."""
    split, variants = comparison.world.split, comparison.variants
    baseline, challenger = comparison.baseline.name, comparison.challenger.name
    labels = comparison.data.periods["test"].task.labels
    found = {
        name: estimates(scores, labels, comparison.resamples)
        for name, scores in comparison.scores.items()
    }
    spotted = too_good(
        comparison.challenger,
        found[challenger]["auc_random"].interval(),
        found[baseline]["auc_random"].interval(),
    )
    result = {
        "title": f"{challenger} against {baseline} and others, by one small ranker",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "data": _data(comparison),
        "split": {
            "train_until": split.train_until.isoformat(),
            "validation_until": split.validation_until.isoformat(),
            "test_until": split.test_until.isoformat(),
        },
        "seeds": list(range(protocol.seeds)),
        "baseline": baseline,
        "challenger": challenger,
        "n_trials": len(variants) * len(protocol.l2) + len(grid),
        "protocol": list(_protocol(comparison, protocol)),
        "metrics": [{"key": key, "label": metric.label} for key, metric in METRICS.items()],
        "variants": [_variant(name, comparison, found, costs) for name in found],
        "gaps": list(gaps(comparison, found[challenger])),
        "rows_read": list(_rows_read(comparison)),
        "promises": list(_promises(comparison, found)),
        "cohorts": list(_cohorts(comparison)),
        "controls": [*controlled, spotted],
        "storage": costs["storage"],
        "cold_start": costs["cold_start"],
        "decay_grid": [
            {"decay": r, "metric": CHOSEN_BY, "value": value, "chosen": value == max(grid.values())}
            for r, value in grid.items()
        ],
        "training": {
            variant.name: _training(manifests[variant.name])
            for variant in variants
            if isinstance(variant.line, Learned)
        },
        **_snapshot(comparison),
    }
    return dict(_plain(result))


def _snapshot(comparison: Comparison) -> dict[str, Any]:
    """Return what the report shows of the last snapshot."""
    config, as_of = comparison.world.config, comparison.world.shown.as_of
    lines = list(comparison.lines.values())
    with connect(config) as con:
        return {
            "distributions": distributions(config, con, as_of),
            "map": member_map(config, con, as_of, comparison.lines[comparison.challenger.name]),
            "members": shown_members(config, con, as_of, lines),
        }


def _plain(value: Any) -> Any:
    """Return dataclasses and pydantic models within as JSON values."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return value


def _data(comparison: Comparison) -> dict[str, Any]:
    data = comparison.data
    ends = pd.to_datetime(data.events.times[[0, -1]], unit="us", utc=True)
    return {
        "name": data_name(comparison.world.config),
        "members": len(data.member_codes),
        "items": len(data.items),
        "events": len(data.events.times),
        "first": ends[0].isoformat(),
        "last": ends[1].isoformat(),
    }


def data_name(config: Config) -> str:
    """Return the last telling part of the events' source.

    data/movietweetings/events.parquet is movietweetings.
    """
    if config.events.is_sql:  # not the URL, which may hold a password
        return config.events.table or "a table"
    source = config.events.source
    telling = [part for part in Path(source).parts if part not in GENERIC]
    return telling[-1] if telling else source


def _protocol(comparison: Comparison, protocol: Protocol) -> Iterator[str]:
    config, split = comparison.world.config, comparison.world.split
    periods = comparison.data.periods
    counts = "; ".join(f"{name} {figures(period)}" for name, period in periods.items())
    positive = int(periods["test"].task.labels.positive.sum())
    yield (
        f"Aggregators and item encoder are trained on data before {split.weights_until:%Y-%m-%d}, "
        f"the ranker on labels from then to {split.train_until:%Y-%m-%d}. Every choice is made on "
        f"labels up to {split.validation_until:%Y-%m-%d}; later labels are the test."
    )
    yield (
        "Each label's features are fetched with get_historical_features through the variant's "
        "feature service, filter_by_created_timestamp=True. They are those of the newest snapshot "
        f"readable at the label's time: one is taken every {config.step / HOUR:g} hours, and can "
        f"be read {config.publish_delay / HOUR:g} hours later."
    )
    yield (
        f"Labels are actions on items that had a vector by the midnight before: {counts}. The "
        f"{positive:,} positive test labels are ranked among all items known then, or among those "
        "with an action in the 7 days before; items that the member had acted on are left out."
    )
    yield (
        f"All variants use the same Keras ranker with {protocol.seeds} seeds per variant. Its L2 "
        f"penalty is chosen by {CHOSEN_BY} on validation, for each variant, from "
        + ", ".join(f"{l2:g}" for l2 in protocol.l2)
        + "; so is r of the decayed vectors."
    )
    yield (
        f"Intervals are 95 % percentiles of {protocol.resamples:,} paired resamples of members and "
        "seeds."
    )


def _rows_read(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield what the labels of each period got; views that gave the same stand together."""
    for name, period in comparison.data.periods.items():
        alike: dict[Any, list[str]] = {}
        for view, one in period.coverage.items():
            alike.setdefault((one.labels, one.without_row, one.old, one.max_age), []).append(view)
        for (labels, without, old, max_age), views in alike.items():
            yield {
                "period": name,
                "views": views,
                "labels": labels,
                "without_row": without,
                "old": old,
                "max_age_hours": max_age / HOUR,
            }


def _variant(
    name: str,
    comparison: Comparison,
    found: Mapping[str, Mapping[str, Estimate]],
    costs: Mapping[str, Any],
) -> dict[str, Any]:
    line, config = comparison.lines.get(name), comparison.world.config
    own, base = found[name], found[comparison.baseline.name]
    variant: dict[str, Any] = {
        "name": name,
        "label": DISPLAY_NAMES.get(name, name.replace("_", " ")),
        "kind": "reference",
        "metrics": {key: value.interval() for key, value in own.items()},
        "difference": {},
    }
    if name != comparison.baseline.name:
        variant["difference"] = {k: (value - base[k]).interval() for k, value in own.items()}
    if line is not None:
        vectors = line.vectors(config)
        variant |= {
            "kind": "learned" if isinstance(line, Learned) else "hand",
            "bytes_per_member": bytes_per_member(len(vectors), config.dim, "float32"),
            "vectors": len(vectors),
            "dims": config.dim,
            "members_per_second": costs["members_per_second"][name],
        }
        if "decay" in line.parameters():
            variant["label"] = f"{len(vectors)} decayed vectors, r = {line.parameters()['decay']}"
    return variant


def _promises(
    comparison: Comparison, found: Mapping[str, Mapping[str, Estimate]]
) -> Iterator[Promise]:
    config, lines = comparison.world.config, comparison.lines
    ours, theirs = comparison.challenger.name, comparison.baseline.name
    for key, metric in METRICS.items():
        if not measured(found[ours], key):
            continue
        difference = (found[ours][key] - found[theirs][key]).interval()
        require = clear_gain if key in MUST_GAIN else no_clear_loss
        yield require(key, f"{metric.label}, {ours} minus {theirs}", difference)
    challenger, baseline = (
        bytes_per_member(len(lines[name].vectors(config)), config.dim, "float32")
        for name in (ours, theirs)
    )
    # One vector instead of one per action.
    parts = len(config.actions)
    yield at_most("bytes", "Bytes per member", challenger, of=baseline, parts=parts)
    difference = (found[ours][CHOSEN_BY] - found["cooccurrence"][CHOSEN_BY]).interval()
    label = METRICS[CHOSEN_BY].label
    yield no_clear_loss("cooccurrence", f"{label}, {ours} minus co-occurrence", difference)


def _cohorts(comparison: Comparison) -> Iterator[dict[str, Any]]:
    test = comparison.data.periods["test"]
    columns = [cohort_columns(test, comparison.data), comparison.sequences.history]
    frame = pd.concat(columns, axis=1)
    for cohort, levels in cohorts(frame, comparison.world.split.train_until).items():
        for level, mask in levels.items():
            count = int((mask & test.task.labels.positive).sum())
            if count:
                yield from _level(comparison, cohort, level, mask, count)


def _level(
    comparison: Comparison, cohort: str, level: str, mask: NDArray[np.bool_], count: int
) -> Iterator[dict[str, Any]]:
    labels = comparison.data.periods["test"].task.labels
    found = {
        variant.name: estimates(variant.scores, labels, comparison.resamples, mask, COHORT_METRICS)
        for variant in comparison.variants
    }
    base = found.pop(comparison.baseline.name)
    for metric in COHORT_METRICS:
        yield {
            "metric": metric,
            "cohort": cohort,
            "level": level,
            "labels": count,
            "difference": {
                name: (own[metric] - base[metric]).interval() for name, own in found.items()
            },
        }


def _training(manifest: Mapping[str, Any]) -> dict[str, Any]:
    epochs = manifest["history"]["select"]
    names = sorted({name for epoch in epochs for name in epoch})
    return {
        "epochs": list(range(1, len(epochs) + 1)),
        "curves": {name: [epoch.get(name) for epoch in epochs] for name in names},
        "best_epoch": int(manifest["metrics"]["epochs"]),
        "objective": manifest["recipe"]["objective"],
    }
