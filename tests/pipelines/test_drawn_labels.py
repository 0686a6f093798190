"""What was liked at places that chance filled, weighted: by hand, by enumeration, by simulation."""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.evaluation.metrics import ndcg
from pipelines.gates.quality import AT, equal_weights, paired, said
from pipelines.ranking import shown
from pipelines.ranking.labels import Labels
from pipelines.ranking.shown import drawn_labels
from serving.recommend.rules import Pool, drawing, listed
from tests.pipelines.test_impressions import HOUR, SECOND, SINCE, Row, config_of, write_items
from tests.pipelines.test_impressions import write_shown as write
from tests.worlds.events import AS_OF, Event, write_activity
from transformations.config import Config
from transformations.duck import connect
from transformations.recommend_settings import RecommendRules

LONG_AGO = SINCE - 100 * 24 * HOUR


def drawn(config: Config, most: int = 1_000_000) -> tuple[Labels, NDArray[np.float64]]:
    with connect(config) as con:
        found = drawn_labels(config, con, SINCE, AS_OF, most)
    assert found is not None
    return found


def test_what_was_liked_where_chance_chose_has_its_weight(tmp_path: Path) -> None:
    config, early, late = config_of(tmp_path), AS_OF - 60 * HOUR, AS_OF - 50 * HOUR
    write_items(config, {7: LONG_AGO, 8: LONG_AGO, 9: late - HOUR})
    write(
        config,
        [
            Row("a", 1, 7, early, 0, 0.8, [("surface", "home"), ("shift", "2.5")]),
            Row("a", 1, 8, early, 1, 0.001),  # 7 stood above it, and was no choice any more
            Row("f", 1, 8, early + SECOND, 0, 0.001),
            Row("g", 1, 9, early, 0, 0.1),  # nobody knew it then
            Row("b", 2, 7, late, 0, 1.0),  # nothing else could have stood there
            Row("b", 2, 8, late, 1, 1e-9),
            Row("b", 2, 9, late, 2, None),
            Row("c", 3, 7, late, 0, 0.5),  # disliked
            Row("c", 3, 8, late, 1, 0.5),  # nothing came of it
            Row("d", 4, 9, AS_OF - HOUR, 0, 0.25),  # liked before its window is over
            Row("e", 5, 9, AS_OF - HOUR, 0, 0.25),
        ],
    )
    liked = [(1, 7), (1, 8), (1, 9), (2, 7), (2, 8), (2, 9)]
    events = [Event(member, item, "SAVE", late + HOUR) for member, item in liked]
    events += [Event(3, 7, "DISMISS", late + HOUR), Event(4, 9, "APPLY", AS_OF - SECOND)]
    events += [Event(5, 9, "APPLY", AS_OF)]  # not seen
    write_activity(config, [*events, Event(1, 8, "DISMISS", late + 2 * HOUR)])
    labels, weights = drawn(config)
    assert [*zip(labels.members.tolist(), labels.items.tolist(), strict=True)] == [
        (1, 7), (1, 8), (2, 8), (4, 9),
    ]  # fmt: skip
    assert weights.tolist() == [1.25, 1_000.0, 10_000.0, 4.0]
    assert [*labels.timestamps] == [early, early + SECOND, late, AS_OF - HOUR]
    assert (labels.actions.tolist(), labels.signs.tolist()) == (["SAVE"] * 3 + ["APPLY"], [1] * 4)
    assert labels.context["surface"].tolist() == ["home", None, None, None]
    assert labels.context["shift"].tolist() == [2.5, None, None, None]


def test_where_chance_filled_nothing_there_is_no_label(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    write_items(config, {7: LONG_AGO})
    with connect(config) as con:
        assert drawn_labels(config, con, SINCE, AS_OF, 9) is None
        write(config, [Row("a", 1, 7, AS_OF - HOUR)])
        write_activity(config, [Event(1, 7, "SAVE", AS_OF - SECOND)])
        assert drawn_labels(config, con, SINCE, AS_OF, 9) is None


def test_of_many_the_heavy_ones_are_kept_and_sums_stay(tmp_path: Path) -> None:
    config, late = config_of(tmp_path), AS_OF - 10 * HOUR
    write_items(config, {7: LONG_AGO, 8: LONG_AGO})
    heavy, light = [(m, 8, 0.001) for m in range(100)], [(m, 7, 0.5) for m in range(100, 4_100)]
    write(config, [Row(f"{m}", m, item, late, 0, p) for m, item, p in heavy + light])
    write_activity(config, [Event(m, item, "SAVE", late + HOUR) for m, item, _ in heavy + light])
    labels, weights = drawn(config, most=1_000)
    of_7, of_8 = weights[labels.items == 7], weights[labels.items == 8]
    assert len(of_8) == 100
    assert len(of_7) == pytest.approx(1_000 * 8_000 / 108_000, rel=0.4)
    assert of_8.sum() == pytest.approx(100_000)
    assert of_7.sum() == pytest.approx(8_000, rel=0.4)


WAYS = 96
"""Every probability of a list below is a whole number of these."""


@settings(max_examples=25, deadline=None)
@given(
    scores=st.permutations([0.9, 0.5, 0.1]),
    liked=st.sets(st.integers(0, 2), min_size=1),
    ranks=st.tuples(*[st.permutations([1.0, 2.0, 3.0])] * 2),
    explore=st.sampled_from([0.5, 0.25]),
    places=st.integers(1, 3),
)
def test_each_liked_item_counts_alike(
    scores: list[float], liked: set[int], ranks: Any, explore: float, places: int
) -> None:
    """Every list as often as it is probable: weighted, they say what showing all would have."""
    pool = Pool(np.arange(3), np.array(scores, np.float32))
    rules = RecommendRules(explore=explore)
    rows: list[Row] = []
    for order in permutations(range(3), places):
        free = sorted(range(3), key=lambda item: -scores[item])
        left = iter(order)

        def draw(_: int, free: list[int] = free, left: Iterator[int] = left) -> int:
            index = free.index(next(left))
            free.pop(index)
            return index

        listing = listed(pool, rules, places, draw)
        assert [place.item for place in listing] == [*order]
        often = WAYS * np.prod([place.propensity for place in listing])
        assert often == pytest.approx(round(often))
        for _ in range(round(often)):
            member = len(rows)
            for number, place in enumerate(listing):
                shown_at = SINCE + HOUR
                row = Row(f"{member}", member, place.item, shown_at, number, place.propensity)
                rows.append(row)
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder))
        write_items(config, dict.fromkeys(range(3), LONG_AGO))
        write(config, rows)
        acted = [row for row in rows if row.item_id in liked]
        write_activity(
            config, [Event(r.member_id, r.item_id, "SAVE", r.shown_at + HOUR) for r in acted]
        )
        labels, weights = drawn(config)
    of = [np.array(release)[labels.items] for release in ranks]
    found = paired(labels, *of, weights)
    gains = [ndcg(np.array(release)[sorted(liked)], AT).mean() for release in ranks]
    assert [found.value, found.before] == pytest.approx(gains)


def rank(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1 of each row's items."""
    return (np.argsort(np.argsort(-scores, axis=1), axis=1) + 1).astype(np.float64)


def test_a_better_release_is_seen_although_lists_favour_what_served() -> None:
    """The new one is nearer to what members like; they see, and so like, what the old one chose."""
    members, items, lists, n = 600, 40, 80, 2
    rng = np.random.default_rng(3)
    taste = rng.normal(size=(members, items))
    likes = 1 / (1 + np.exp(3 - taste))
    old, new = (rank(taste + noise * rng.normal(size=taste.shape)) for noise in (2.0, 1.0))
    rules = RecommendRules(explore=0.3)
    chosen = [
        (member, place.row, 1 / place.propensity, number == 0)
        for member in np.repeat(np.arange(members), lists)
        for number, place in enumerate(
            listed(
                Pool(np.arange(items), -old[member].astype(np.float32)),
                rules,
                n,
                drawing(rng, rules.explore),
            )
        )
        if rng.random() < likes[member, place.row]
    ]
    who, what, weights, is_first = (np.array(each) for each in zip(*chosen, strict=True))
    signs, names = np.ones(len(who), np.int32), np.array(["SAVE"] * len(who))
    labels = Labels(who, what, names, signs, np.arange(len(who)))
    ranks = new[who, what], old[who, what]
    naive = paired(labels, *ranks)
    first = np.flatnonzero(is_first)
    weighted = paired(labels.take(first), *(each[first] for each in ranks), weights[first])
    gains = [np.average(ndcg(each, AT), weights=likes) for each in (new, old)]
    truth = gains[0] - gains[1]
    assert naive.is_worse
    assert weighted.is_better
    for within in (weighted.members, weighted.items):
        assert within.low < truth < within.high
    assert weighted.value == pytest.approx(gains[0], abs=0.05)
    equal = equal_weights(weights)
    assert 50 < equal < len(weights) / 3
    verdict = said(naive, weighted, equal)
    assert (verdict.passed, verdict.waits) == (None, True)


def test_the_bound_of_a_weight_is_above_what_an_explored_place_of_500_weighs() -> None:
    pool = Pool(np.arange(500), np.zeros(500, np.float32))
    (place,) = listed(pool, RecommendRules(explore=0.05), 1, lambda _: 499)
    assert 1 / place.propensity == pytest.approx(shown.HEAVIEST_JUDGED)
