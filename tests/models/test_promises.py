import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from models.evaluation.bootstrap import Interval, Resamples
from models.evaluation.metrics import auc
from models.evaluation.promises import (
    assert_nothing_from_the_future,
    assert_trained_before,
    at_most,
    chance_auc,
    clear_gain,
    no_clear_loss,
    permuted_labels_auc,
    suspicious,
)
from transformations.errors import InputError, RunFailedError

NAN = Interval(math.nan, math.nan, math.nan)


@pytest.mark.parametrize(
    ("difference", "gains", "holds"),
    [
        (Interval(0.02, 0.01, 0.03), True, True),
        (Interval(0.0, -0.01, 0.01), False, True),
        (Interval(0.01, 0.0, 0.02), False, True),
        (Interval(-0.01, -0.02, 0.0), False, False),
        (Interval(-0.02, -0.03, -0.01), False, False),
        (NAN, False, False),
    ],
)
def test_promises_on_a_difference(difference, gains, holds):
    gain = clear_gain("hr10", "HR@10", difference, difference)
    hold = no_clear_loss("ndcg10", "NDCG@10", difference, difference)
    assert (gain.passed, hold.passed) == (gains, holds)
    assert gain.sentence.startswith("HR@10: required both CIs above 0, got ")
    assert f"{difference.low:+.4f}" in hold.sentence
    assert json.loads(json.dumps(dataclasses.asdict(gain)))["name"] == "hr10"


@pytest.mark.parametrize("other", [Interval(0.02, -0.01, 0.05), NAN])
def test_a_gain_holds_only_with_both_intervals(other):
    clear = Interval(0.02, 0.01, 0.03)
    for pair in ((clear, other), (other, clear)):
        assert not clear_gain("hr10", "HR@10", *pair).passed


def test_a_loss_over_items_alone_breaks_a_promise():
    unclear, loss = Interval(-0.01, -0.03, 0.01), Interval(-0.01, -0.02, -0.001)
    for pair in ((unclear, loss), (loss, unclear)):
        assert not no_clear_loss("hr10", "HR@10", *pair).passed


@pytest.mark.parametrize("actions", [1, 2, 3, 7, 49])
def test_a_promise_on_bytes(actions):
    of_all = 256 * actions
    kept = at_most("bytes", "Bytes per member", 256, of=of_all, parts=actions)
    assert kept.passed
    assert kept.sentence.startswith(f"Bytes per member: required at most 1/{actions} of {of_all}")
    assert not at_most("bytes", "Bytes per member", 260, of=of_all, parts=actions).passed


def test_permuted_labels_show_no_skill_and_real_ones_do():
    rng = np.random.default_rng(0)
    positive = rng.random(2000) < 0.3
    scores = rng.normal(size=2000) + positive
    counts = (int(positive.sum()), int((~positive).sum()))
    for seed in range(5):
        got = permuted_labels_auc(scores, positive, seed)
        assert chance_auc("permuted labels", "permuted", got, *counts).passed
    control = chance_auc("real labels", "as they are", auc(scores, positive), *counts)
    assert not control.passed
    assert control.expected.startswith("0.5 ± 0.0")
    assert not chance_auc("none", "no label", math.nan, 1, 1).passed
    json.dumps(dataclasses.asdict(control))


def test_a_variant_with_a_leak_is_too_good_to_be_true():
    rng = np.random.default_rng(1)
    positive, members = rng.random(1000) < 0.5, rng.integers(0, 100, 1000)
    honest = rng.normal(size=1000) + 0.5 * positive
    resamples = Resamples(100, 1, 200)
    bound = auc(honest, positive) + 0.02
    for scores, passes in ((honest, True), (honest + 2 * positive, False)):
        interval = resamples.auc(scores, positive, members).interval()
        control = suspicious("leak", "AUC", interval, bound)
        assert control.passed == passes
        assert f"{interval.low:.4f}" in control.got
    assert not suspicious("leak", "AUC", NAN, bound).passed


def joined(**times):
    at = pd.Timestamp("2026-03-10 12:00", tz="UTC")
    row = {"event_timestamp": at, "snapshot": at, "created": at}
    frame = pd.DataFrame([row] * 3, index=[10, 11, 12])
    for column, change in times.items():
        frame.loc[11:, column] = change
    return frame


def test_features_of_the_labels_own_time_pass():
    assert_nothing_from_the_future(joined(), ["snapshot", "created"])
    assert_nothing_from_the_future(joined(created=pd.NaT), ["snapshot", "created"])


@pytest.mark.parametrize("column", ["snapshot", "created"])
def test_a_feature_from_the_future_is_caught(column):
    leaky = joined(**{column: pd.Timestamp("2026-03-10 12:00:00.000001", tz="UTC")})
    with pytest.raises(
        RunFailedError, match=rf"2 of 3 .*row 11: {column} 2026-03-10 12:00:00\.000001"
    ):
        assert_nothing_from_the_future(leaky, ["snapshot", "created"])


def test_missing_times_cannot_pass():
    with pytest.raises(InputError, match="none called published"):
        assert_nothing_from_the_future(joined(), ["published"])


def manifest(until):
    return {"name": "learned", "version": 2, "trained_until": until}


FIRST_LABEL = datetime(2026, 3, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "until", [None, "2026-03-10T00:00:00+00:00", "2026-03-09", "2026-03-10T01:00:00+01:00"]
)
def test_weights_from_before_the_labels_pass(until):
    assert_trained_before(manifest(until), FIRST_LABEL)


@pytest.mark.parametrize("until", ["2026-03-10T00:00:01+00:00", "2026-03-10T00:00:01"])
def test_weights_from_the_labels_time_are_refused(until):
    with pytest.raises(InputError) as refused:
        assert_trained_before(manifest(until), FIRST_LABEL)
    for text in ("learned v2", "2026-03-10 00:00:01+00:00", "2026-03-10 00:00:00+00:00"):
        assert text in str(refused.value)


def test_zones_are_compared_as_timestamps():
    zone = timezone(timedelta(hours=2))
    with pytest.raises(InputError):
        assert_trained_before(manifest("2026-03-10"), datetime(2026, 3, 10, 1, tzinfo=zone))
