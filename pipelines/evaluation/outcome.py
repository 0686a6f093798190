"""What an evaluation found, as the document that the report and the docs are made from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.evaluation.bootstrap import Estimate, Resamples
from models.evaluation.cohorts import cohorts
from models.evaluation.compare import METRICS, estimates
from models.evaluation.gates import Control, Gate, above_zero, at_most, reaches_above_zero
from models.evaluation.scoring import Outcome
from models.quantization import bytes_per_member
from models.spec import Learned
from pipelines.evaluation.controls import too_good
from pipelines.evaluation.features import Ground, Period, facts
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.variants import CHOSEN_BY, Variant
from pipelines.evaluation.world import World
from pipelines.report.data import distributions, member_map, shown_members
from transformations.duck import connect

COHORT_METRICS = (CHOSEN_BY, "auc_random")
WINS = ("hr10_recent", "auc_random")
"""On these metrics the challenger has to be clearly better than the baseline; on the others, not
clearly worse."""
PLAIN = ("/", "data", "source", "events", "events.parquet", "events.csv")
LABELS = {
    "none": "no activity",
    "popular": "popular in the last 7 days",
    "cooccurrence": "decayed co-occurrence, last 10",
}


@dataclass(frozen=True, eq=False)
class Compared:
    """Everything that was fitted and measured.

    Attributes:
        history: What the features say of each test label's member: n_actions, last_action_at.
    """

    world: World
    ground: Ground
    periods: dict[str, Period]
    history: pd.DataFrame
    variants: list[Variant]
    references: dict[str, Outcome]
    baseline: Variant
    challenger: Variant
    resamples: Resamples

    def outcomes(self) -> dict[str, list[Outcome]]:
        """Return what each variant and reference came to on the test period, one a seed."""
        found = {variant.name: variant.outcomes for variant in self.variants}
        return {name: [outcome] for name, outcome in self.references.items()} | found


def document(
    compared: Compared,
    protocol: Protocol,
    manifests: Mapping[str, dict[str, Any]],
    grid: Mapping[float, float],
    controlled: Sequence[Control],
    costs: Mapping[str, Any],
    looked_at: int,
    command: str,
) -> dict[str, Any]:
    """Return what pipelines/report/result.py describes, as JSON values."""
    world, test = compared.world, compared.periods["test"]
    config, split = world.config, world.split
    labels = test.task.labels
    found = {
        name: estimates(outcomes, labels, compared.resamples)
        for name, outcomes in compared.outcomes().items()
    }
    base = found[compared.baseline.name]
    gains = {
        name: {key: (value - base[key]).interval() for key, value in own.items()}
        for name, own in found.items()
        if name != compared.baseline.name
    }
    challenger = compared.challenger.name
    spotted = too_good(
        compared.challenger,
        found[challenger]["auc_random"].interval(),
        base["auc_random"].interval(),
    )
    last = split.snapshots[-1]
    lines = [variant.line for variant in compared.variants if variant.line is not None]
    with connect(config) as con:
        shown = {
            "distributions": distributions(config, con, last),
            "map": member_map(config, con, last, compared.challenger.line or lines[0]),
            "members": shown_members(config, con, last, lines),
        }
    result = {
        "title": f"{challenger} against {compared.baseline.name} and others, by one small ranker",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "data": _data(compared),
        "split": {
            "train_until": split.train_until.isoformat(),
            "validation_until": split.validation_until.isoformat(),
            "test_until": split.test_until.isoformat(),
        },
        "seeds": list(range(protocol.seeds)),
        "baseline": compared.baseline.name,
        "challenger": challenger,
        "looked_at": looked_at,
        "protocol": list(_protocol(compared, protocol)),
        "metrics": [{"key": key, "label": metric.label} for key, metric in METRICS.items()],
        "variants": [
            _variant(name, compared, own, gains.get(name, {}), costs) for name, own in found.items()
        ],
        "gates": [asdict(gate) for gate in _gates(compared, found)],
        "cohorts": list(_cohorts(compared)),
        "controls": [asdict(control) for control in [*controlled, spotted]],
        "storage": costs["storage"],
        "cold_start": costs["cold_start"],
        "decay_grid": [
            {"decay": r, "metric": CHOSEN_BY, "value": value, "chosen": value == max(grid.values())}
            for r, value in grid.items()
        ],
        "training": {
            variant.name: _training(manifests[variant.name])
            for variant in compared.variants
            if isinstance(variant.line, Learned)
        },
        **{key: None if one is None else _plain(one) for key, one in shown.items()},
    }
    return _plain(result)


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


def _data(compared: Compared) -> dict[str, Any]:
    events, config = compared.ground.events, compared.world.config
    ends = pd.to_datetime(events.times[[0, -1]], unit="us", utc=True)
    # data/movietweetings/source/events.parquet is MovieTweetings.
    telling = [part for part in Path(config.events.source).parts if part not in PLAIN]
    return {
        "name": telling[-1] if telling else config.events.source,
        "members": compared.ground.members,
        "items": len(compared.ground.items),
        "events": len(events.times),
        "first": ends[0].isoformat(),
        "last": ends[1].isoformat(),
    }


def _protocol(compared: Compared, protocol: Protocol) -> Iterator[str]:
    split, periods = compared.world.split, compared.periods
    config = compared.world.config
    yield (
        f"Aggregators and item encoder saw what lies before {split.weights_until:%Y-%m-%d}; the "
        f"ranker, labels from there to {split.train_until:%Y-%m-%d}; every choice was made on "
        f"labels up to {split.validation_until:%Y-%m-%d}; the test is what came after."
    )
    yield (
        "Each label's features were fetched with get_historical_features through the variant's "
        "feature service, filter_by_created_timestamp=True: the daily snapshot that could be read "
        f"{config.publish_delay.total_seconds() / 3600:g} hours after midnight."
    )
    yield (
        "Labels are actions on items that were known at that midnight: "
        + ", ".join(f"{len(period.frame):,} in {name}" for name, period in periods.items())
        + f". The {int(periods['test'].task.labels.positive.sum()):,} positive ones of the test "
        "are ranked in full among all items then known, or those acted on in the 7 days before, "
        "less what the member had acted on already."
    )
    yield (
        f"One Keras ranker for all: {protocol.seeds} seeds a variant; its penalty on the weights "
        f"of the products chosen by {CHOSEN_BY} on validation, for each variant alike, from "
        + ", ".join(f"{l2:g}" for l2 in protocol.l2)
        + "; so was r of the decayed vectors."
    )
    yield (
        f"Intervals are 95 % percentiles of {protocol.resamples:,} paired resamples of members and "
        "seeds."
    )


def _variant(
    name: str,
    compared: Compared,
    own: Mapping[str, Estimate],
    gains: Mapping[str, Any],
    costs: Mapping[str, Any],
) -> dict[str, Any]:
    lines = {variant.name: variant.line for variant in compared.variants}
    line, config = lines.get(name), compared.world.config
    kind = "reference"
    stored: dict[str, Any] = {}
    label = LABELS.get(name, name.replace("_", " "))
    if line is not None:
        kind = "learned" if isinstance(line, Learned) else "hand"
        vectors = line.vectors(config)
        stored = {
            "bytes_per_member": bytes_per_member(len(vectors), config.dim, "float32"),
            "vectors": len(vectors),
            "dims": config.dim,
            "members_per_second": costs["members_per_second"][name],
        }
        if "decay" in line.parameters():
            label = f"{len(vectors)} decayed vectors, r = {line.parameters()['decay']}"
    return {
        "name": name,
        "label": label,
        "kind": kind,
        "metrics": {key: value.interval() for key, value in own.items()},
        "difference": dict(gains),
        **stored,
    }


def _gates(compared: Compared, found: Mapping[str, Mapping[str, Estimate]]) -> Iterator[Gate]:
    challenger, baseline = compared.challenger, compared.baseline
    ours, theirs = found[challenger.name], found[baseline.name]
    for key, metric in METRICS.items():
        difference = (ours[key] - theirs[key]).interval()
        what = f"{metric.label}, {challenger.name} less {baseline.name}"
        ask = above_zero if key in WINS else reaches_above_zero
        yield ask(key, what, difference)
    assert challenger.line is not None
    assert baseline.line is not None
    config = compared.world.config
    bytes_ = [
        bytes_per_member(len(variant.line.vectors(config)), config.dim, "float32")
        for variant in (challenger, baseline)
        if variant.line is not None
    ]
    yield at_most("bytes", "Bytes a member", bytes_[0], of=bytes_[1], share=1 / 3)
    against = (ours[CHOSEN_BY] - found["cooccurrence"][CHOSEN_BY]).interval()
    label = METRICS[CHOSEN_BY].label
    yield reaches_above_zero(
        "cooccurrence", f"{label}, {challenger.name} less co-occurrence", against
    )


def _cohorts(compared: Compared) -> Iterator[dict[str, Any]]:
    test = compared.periods["test"]
    labels = test.task.labels
    frame = pd.concat([facts(test, compared.ground), compared.history], axis=1)
    for cohort, levels in cohorts(frame, compared.world.split.train_until).items():
        for level, mask in levels.items():
            counted = int((mask & labels.positive).sum())
            if not counted:
                continue
            yield from _cohort(compared, cohort, level, mask, counted)


def _cohort(
    compared: Compared, cohort: str, level: str, mask: NDArray[np.bool_], counted: int
) -> Iterator[dict[str, Any]]:
    labels = compared.periods["test"].task.labels
    found = {
        variant.name: estimates(variant.outcomes, labels, compared.resamples, mask, COHORT_METRICS)
        for variant in compared.variants
    }
    base = found.pop(compared.baseline.name)
    for metric in COHORT_METRICS:
        yield {
            "metric": metric,
            "cohort": cohort,
            "level": level,
            "labels": counted,
            "difference": {
                name: (own[metric] - base[metric]).interval() for name, own in found.items()
            },
        }


def _training(manifest: Mapping[str, Any]) -> dict[str, Any]:
    passes = manifest["history"]["select"]
    names = sorted({name for one in passes for name in one})
    return {
        "epochs": list(range(1, len(passes) + 1)),
        "curves": {name: [one.get(name) for one in passes] for name in names},
        "best_epoch": int(manifest["metrics"]["epochs"]),
        "objective": manifest["recipe"]["objective"],
    }
