"""The result of an evaluation as JSON, which the report and the docs are made from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from models.evaluation.bootstrap import Estimate
from models.evaluation.cohorts import cohorts
from models.evaluation.compare import METRICS, carriers, estimates
from models.evaluation.promises import Control, Promise, at_most, clear_gain, no_clear_loss
from models.quantization import bytes_per_member
from models.spec import GeometricDecay, Learned
from operations.ledger import Ledger
from operations.trials import Trial, trials
from pipelines.evaluation.choices import PUBLISHED, decayed
from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.controls import too_good
from pipelines.evaluation.gaps import figures, gaps, measured
from pipelines.evaluation.labels import cohort_columns
from pipelines.evaluation.protocol import Freshness, Protocol
from pipelines.evaluation.variants import CHOSEN_BY
from pipelines.report.data import distributions, item_texts, member_map, shown_members
from transformations import clock
from transformations.config import Config
from transformations.duck import connect

HOUR = timedelta(hours=1)
COHORT_METRICS = (CHOSEN_BY, "auc_random")
MUST_GAIN = ("hr10", CHOSEN_BY)
"""Metrics on which the challenger must be clearly better than the baseline; on the others it must
not be clearly worse."""
MUST_NOT_LOSE_TO = ("popular", "knn", "ease", "als", "sasrec")
GENERIC = ("/", "data", "source", "events", "events.parquet", "events.csv")

Found = Mapping[str, Mapping[str, Estimate]]


def result_of(
    comparison: Comparison,
    protocol: Protocol,
    manifests: Mapping[str, dict[str, Any]],
    controlled: Sequence[Control],
    costs: Mapping[str, Any],
    command: str,
    ledger: Ledger,
) -> dict[str, Any]:
    """Return what pipelines/report/result.py describes, as JSON values."""
    split, variants = comparison.bench.world.split, comparison.variants
    baseline, challenger = comparison.baseline.name, comparison.challenger.name
    found = comparison.main
    spotted = too_good(
        comparison.challenger,
        found[challenger]["auc_random"].interval(),
        found[baseline]["auc_random"].interval(),
    )
    tried = trials(ledger, "validation") if protocol.tuned else []
    result = {
        "title": comparison.title,
        "created": clock.now().isoformat(timespec="seconds"),
        "command": command,
        "data": _data(comparison),
        "split": {
            "fit_until": split.fit_until.isoformat(),
            "train_until": split.train_until.isoformat(),
            "until": split.until.isoformat(),
        },
        "seeds": list(range(protocol.seeds)),
        "baseline": baseline,
        "challenger": challenger,
        "n_trials": len(tried),
        "trials": tried,
        "test_openings": [{"at": one.made_at, "what": one.what} for one in trials(ledger, "test")],
        "protocol": list(_protocol(comparison, protocol)),
        "metrics": [{"key": key, "label": metric.label} for key, metric in METRICS.items()],
        "variants": [_variant(name, comparison, costs) for name in found],
        "freshness": [_freshness(each, comparison) for each in comparison.freshness],
        "challenger_minus": {
            name: _differences(found[challenger], other)
            for name, other in found.items()
            if name != challenger
        },
        "carriers": _carriers(comparison),
        "gaps": list(gaps(comparison, found[challenger])),
        "promises": list(_promises(comparison)),
        "cohorts": list(_cohorts(comparison)),
        "controls": [*controlled, spotted],
        "storage": costs["storage"],
        "cold_start": costs["cold_start"],
        "decay_grid": list(_decay_grid(comparison, tried)),
        "training": {
            variant.name: _training(manifests[variant.name])
            for variant in variants
            if isinstance(variant.line, Learned) and variant.name in manifests
        },
        **_snapshot(comparison),
    }
    return dict(_plain(result))


def _decay_grid(comparison: Comparison, tried: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    """Yield the newest trial of each r in the baseline's space."""
    space = comparison.baseline.space
    newest = {
        one.settings["r"]: one.value
        for one in tried
        if one.what == "decayed"
        and (one.settings["space"], one.settings["form"]) == (str(space), PUBLISHED)
    }
    for r, value in sorted(newest.items()):
        chosen = r == comparison.choices.decays[space, PUBLISHED]
        yield {"decay": r, "metric": CHOSEN_BY, "value": value, "chosen": chosen}


def _snapshot(comparison: Comparison) -> dict[str, Any]:
    """Return what the report shows of the last snapshot."""
    world = comparison.bench.world
    config, as_of = world.config, world.shown.as_of
    with connect(config) as con:
        return {
            "distributions": distributions(config, con, as_of),
            "map": member_map(config, con, as_of, comparison.lines[comparison.challenger.name]),
            "members": shown_members(config, con, as_of, list(comparison.lines.values())),
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
    bench = comparison.bench
    ends = pd.to_datetime(bench.data.events.times[[0, -1]], unit="us", utc=True)
    return {
        "name": data_name(bench.world.config),
        "members": len(bench.data.member_codes),
        "items": len(bench.data.item_ids),
        "events": len(bench.data.events.times),
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
    bench, test, validation = comparison.bench, protocol.test, protocol.validation
    config, split = bench.world.config, bench.world.split
    counts = "; ".join(f"{name} {figures(period)}" for name, period in bench.data.periods.items())
    positive = int(bench.measured.task.labels.positive.sum())
    yield (
        f"Time is split by shares of the positive actions. Spaces and aggregators are fitted on "
        f"the first {test.fit:.0%}, before {split.fit_until:%Y-%m-%d}; the ranker on labels up to "
        f"{test.train:.0%}, {split.train_until:%Y-%m-%d}; later labels are the test. Items are "
        f"folded in after every {protocol.fold_in:.1%}."
    )
    if protocol.tuned:
        yield (
            f"Every choice is made on the same, shifted: {validation.fit:.0%}, "
            f"{validation.train:.0%}, {validation.until:.0%}. Chosen by {CHOSEN_BY} are, for each "
            "variant, the ranker's L2 penalty, from "
            + ", ".join(f"{l2:g}" for l2 in protocol.l2)
            + "; r and the item space of the decayed vectors, the window of popularity, how fast "
            "pairs of item-kNN fade, and the penalties of EASE and ALS."
        )
    else:
        yield (
            "Nothing was chosen on the validation (--untuned): r, the windows and penalties are "
            "defaults, and the baseline is in the first item space."
        )
    yield (
        "History is strictly earlier by timestamp. `live`: up to the label's time, as the stream "
        "and the request path serve it. A gap, such as `30m`: up to that time before. A snapshot, "
        "such as `1d`: of the newest one that could be read, taken at midnight and readable "
        f"{config.publish_delay / HOUR:g} hours later. All go through the same fold and the same "
        "packaged aggregators, as of each label."
    )
    yield (
        "Labels are a member's first actions on an item that was known by the midnight before, at "
        f"most {protocol.per_member} of a member and sign: {counts}. The {positive:,} positive "
        "test labels are ranked among all items known at midnight, or among those with an action "
        "in the 7 days before; items that the member had acted on before the label are left out."
    )
    yield (
        f"All variants use the same small ranker, fitted with {protocol.seeds} seeds for "
        f"`{comparison.freshness[0]}` and one for the others."
    )
    yield (
        f"Intervals are 95 % percentiles of {protocol.resamples:,} paired resamples of members and "
        "seeds; those over items also resample items. A promise holds only when both do."
    )


def _label(name: str, comparison: Comparison) -> str:
    """Return a variant's or reference's name on the page."""
    choices = comparison.choices
    named = {
        "none": "no activity",
        "none_knn": "no activity, item-kNN as input",
        "popular": f"popularity, window {choices.popular_days:g}d",
        "knn": "item-kNN, last 10",
        "last_item": "item-kNN, last item",
        "ease": f"EASE, penalty {choices.ease:g}",
        "als": "implicit ALS, 64 factors",
        "sasrec": "SASRec, 64 units",
    }
    if name in named:
        return named[name]
    base = name.removesuffix("_knn")
    line, config = comparison.lines[base], comparison.bench.world.config
    vectors, text = len(line.vectors(config)), base.replace("_", " ")
    if isinstance(line, GeometricDecay):
        text = f"{vectors} decayed vector{'s' * (vectors > 1)}"
        text += ", ranks over all positive" * (line.ranks == "positive" and not line.pooled)
        text += " over all positive" * line.pooled + f", r = {line.decay}"
    if len({space for space, _ in choices.decays}) > 1:
        text += f", {line.config_of(config).space}"
    return text + (", item-kNN as input" if base != name else "")


def _variant(name: str, comparison: Comparison, costs: Mapping[str, Any]) -> dict[str, Any]:
    line, config = comparison.lines.get(name), comparison.bench.world.config
    found, baseline = comparison.main, comparison.baseline.name
    variant: dict[str, Any] = {
        "name": name,
        "label": _label(name, comparison),
        "kind": "reference",
        "metrics": {key: value.interval() for key, value in found[name].items()},
    }
    if name != baseline:
        variant |= _differences(found[name], found[baseline])
    if line is not None:
        vectors = line.vectors(config)
        variant |= {
            "kind": "learned" if isinstance(line, Learned) else "hand",
            "bytes_per_member": bytes_per_member(len(vectors), config.dim, line.stored_as(config)),
            "vectors": len(vectors),
            "dims": config.dim,
            "members_per_second": costs["members_per_second"][name],
        }
    return variant


def _differences(
    ours: Mapping[str, Estimate], theirs: Mapping[str, Estimate]
) -> dict[str, dict[str, Any]]:
    """Return both intervals of the paired differences, by metric."""
    apart = {key: ours[key] - theirs[key] for key in ours if key in theirs}
    return {
        "difference": {key: one.interval() for key, one in apart.items()},
        "over_items": {key: one.interval_over_items() for key, one in apart.items()},
    }


def _freshness(freshness: Freshness, comparison: Comparison) -> dict[str, Any]:
    """Return all values with one freshness, their differences to the baseline, and to the first."""
    found, first = comparison.found[freshness.name], comparison.main
    base = found[comparison.baseline.name]
    return {
        "name": freshness.name,
        "seeds": len(comparison.scores[freshness.name][comparison.challenger.name]),
        "variants": {
            name: {
                "metrics": {key: value.interval() for key, value in own.items()},
                "minus_baseline": _differences(own, base),
                "minus_first": _differences(own, first[name]),
            }
            for name, own in found.items()
        },
    }


def _carriers(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the ten items that carry the challenger's difference to the baseline."""
    scores, bench = comparison.scores[comparison.freshness[0].name], comparison.bench
    ours, theirs = (scores[one.name] for one in (comparison.challenger, comparison.baseline))
    found = carriers(ours, theirs, bench.measured.task.labels, CHOSEN_BY)
    ids = bench.data.item_ids.take(pa.array([one.item for one in found])).to_pylist()
    with connect(bench.world.config) as con:
        texts = item_texts(bench.world.config, con, bench.world.split.until, ids)
    return [
        {"item": item, "text": texts.get(item), "labels": one.labels, "adds": one.share}
        for item, one in zip(ids, found, strict=True)
    ]


def _promises(comparison: Comparison) -> Iterator[Promise]:
    config, lines, found = comparison.bench.world.config, comparison.lines, comparison.main
    ours, theirs = comparison.challenger.name, comparison.baseline.name
    for key, metric in METRICS.items():
        if not measured(found[ours], key):
            continue
        difference = found[ours][key] - found[theirs][key]
        require = clear_gain if key in MUST_GAIN else no_clear_loss
        what = f"{metric.label}, {ours} minus {theirs}"
        yield require(key, what, difference.interval(), difference.interval_over_items())
    challenger, baseline = (
        bytes_per_member(len(line.vectors(config)), config.dim, line.stored_as(config))
        for line in (lines[ours], lines[theirs])
    )
    # One vector instead of one per action.
    parts = len(config.actions)
    yield at_most("bytes", "Bytes per member", challenger, of=baseline, parts=parts)
    # In the challenger's own space: the aggregator alone.
    space = comparison.challenger.space
    for form, require in (("positive", no_clear_loss), ("pooled", clear_gain)):
        r = comparison.choices.decays[space, form]
        name = decayed(config, lines.values(), space, r, form).name
        difference = found[ours][CHOSEN_BY] - found[name][CHOSEN_BY]
        what = f"{METRICS[CHOSEN_BY].label}, {ours} minus {_label(name, comparison)}"
        yield require(name, what, difference.interval(), difference.interval_over_items())
    for name in (name for name in MUST_NOT_LOSE_TO if name in found):
        difference = found[ours][CHOSEN_BY] - found[name][CHOSEN_BY]
        what = f"{METRICS[CHOSEN_BY].label}, {ours} minus {_label(name, comparison)}"
        yield no_clear_loss(name, what, difference.interval(), difference.interval_over_items())


def _cohorts(comparison: Comparison) -> Iterator[dict[str, Any]]:
    bench = comparison.bench
    test, split = bench.measured, bench.world.split
    history = bench.histories(test.name, comparison.freshness[0]).history
    frame = pd.concat([cohort_columns(test, bench.data), history], axis=1)
    for cohort, levels in cohorts(frame, split.train_until, split.fit_until).items():
        for level, mask in levels.items():
            count = int((mask & test.task.labels.positive).sum())
            if count:
                yield from _level(comparison, cohort, level, mask, count)


def _level(
    comparison: Comparison, cohort: str, level: str, mask: NDArray[Any], count: int
) -> Iterator[dict[str, Any]]:
    labels = comparison.bench.labels
    scores = comparison.scores[comparison.freshness[0].name]
    found = {
        variant.name: estimates(
            scores[variant.name], labels, comparison.resamples, mask, COHORT_METRICS
        )
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
    # A line whose weights were trained with its space has that training's history alone.
    phase, epochs = next(iter(manifest["history"].items()))
    names = sorted({name for epoch in epochs for name in epoch})
    return {
        "epochs": list(range(1, len(epochs) + 1)),
        "curves": {name: [epoch.get(name) for epoch in epochs] for name in names},
        "best_epoch": int(manifest["metrics"]["epochs"]),
        "objective": manifest["recipe"]["objective"] if phase == "select" else "that of its space",
    }
