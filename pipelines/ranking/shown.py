"""What was shown as labels: of a ranker, an answer; of a gate, each place that chance filled."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.rankers.inputs import Floats, Rows
from models.rankers.item_categories import items_known
from pipelines.ranking.examples import Pairs
from pipelines.ranking.impressions import attribute_impressions
from pipelines.ranking.labels import Labels
from transformations.config import Config
from transformations.duck import sql

HEAVIEST = 10.0
"""Weights by the inverse of a propensity are cut to this: a drawn item's would outweigh all."""
HEAVIEST_JUDGED = 10_000.0
"""The same where rankers are judged: what an item weighs that was drawn from 500 by `explore` 0.05.
A lower bound, as that of training, would leave the advantage to what served."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Answers and what came of them, in the order of time; the answers' members at their times.

    Attributes:
        labels: One per answer. Item, action and sign are those of the best that came of it: of a
            positive action, else of a negative one; else the first item, "" and 0.
        pairs: The items of each answer, its label's own first; with what came of each.
        positions: Of each pair, from 0, int64 [pairs].
        weights: 1 / propensity of each pair, at most HEAVIEST; 1 where none was logged.
    """

    labels: Labels
    pairs: Pairs
    positions: Rows
    weights: Floats

    @property
    def weighted(self) -> str:
        """What its pairs count by, in words: nothing was drawn where every propensity is 1."""
        if (self.weights == 1).all():
            return "none, since every place was certain"
        return f"1 / propensity, at most {HEAVIEST:g}"

    def take(self, part: slice) -> "Shown":
        """Return the labels of a range, which may not have a step, and their pairs."""
        start, stop, _ = part.indices(len(self.labels))
        first, last = np.searchsorted(self.pairs.labels, [start, max(start, stop)])
        rows = slice(int(first), int(last))
        return Shown(
            self.labels.take(part),
            self.pairs.take(rows, start),
            self.positions[rows],
            self.weights[rows],
        )


def shown_labels(
    config: Config, con: Connection, since: datetime, until: datetime, most: int
) -> Shown | None:
    """Return about `most` answers of [since, until) whose attribution window is over by `until`.

    An answer whose window is not over is left out whole: what was liked at once would else stand
    there without what was not. Nothing at or after `until` is seen.

    Returns:
        None where nothing was shown.

    Raises:
        InputError: no item is staged, or impressions have ids of other types.
    """
    items_known(config, con)
    if not attribute_impressions(config, con, since, until):
        return None
    query = sql("shown_labels", __file__)
    table: pa.Table = con.sql(query, params={"most": most}).to_arrow_table()
    con.execute("drop table attributed_impressions")
    if not table.num_rows:
        return None
    own = table["own"].to_numpy()
    items, actions = table["item_id"].to_numpy(), table["action"].to_numpy()
    signs = table["sign"].to_numpy().astype(np.int32)
    labels = _labels_of(config, table.filter(pa.array(own)))
    pairs = Pairs(table["label"].to_numpy().astype(np.int64), items, own, actions, signs)
    positions = table["position"].to_numpy().astype(np.int64)
    return Shown(labels, pairs, positions, weights_of(table["propensity"].to_numpy()))


def drawn_labels(
    config: Config, con: Connection, since: datetime, until: datetime, most: int
) -> tuple[Labels, NDArray[np.float64]] | None:
    """Return positive labels at the first places that chance filled, and their weights.

    A place of propensity 1 could hold nothing else, so what came of it says nothing of what another
    ranker would have put there. Of the others an answer's first counts, and weighs 1 / propensity,
    at most HEAVIEST_JUDGED: so each item counts alike that the place may have got (Swaminathan and
    Joachims, "The Self-Normalized Estimator for Counterfactual Learning", 2015, where the weights'
    sum divides). At a later place what stands above is no choice any more, so what ranked high
    would count at fewer places. Of more than about `most` labels a sample is taken by their
    weights, and what one stands for is in its own.
    A label's time is when its item was shown. Nothing at or after `until` is seen.

    Returns:
        Labels, and weights, float64 [labels]; None where there is none.

    Raises:
        InputError: no item is staged, or impressions have ids of other types.
    """
    items_known(config, con)
    if not attribute_impressions(config, con, since, until):
        return None
    query = sql("drawn_labels", __file__)
    parameters = {"heaviest": HEAVIEST_JUDGED, "most": most}
    table: pa.Table = con.sql(query, params=parameters).to_arrow_table()
    con.execute("drop table attributed_impressions")
    if not table.num_rows:
        return None
    return _labels_of(config, table), table["weight"].to_numpy()


def _labels_of(config: Config, table: pa.Table) -> Labels:
    """Return rows of what was shown as labels, at the times of their answers."""
    said = [dict(one or ()) for one in table["context"].to_pylist()]
    return Labels(
        table["member_id"].to_numpy(),
        table["item_id"].to_numpy(),
        table["action"].to_numpy(),
        table["sign"].to_numpy().astype(np.int32),
        table["shown_at"].cast("int64").to_numpy(),
        {
            key: np.array([_value(kind, one.get(key)) for one in said], object)
            for key, kind in config.recommend.context.items()
        },
    )


def weights_of(propensities: NDArray[np.float64]) -> Floats:
    """Return the inverse of propensities, at most HEAVIEST; 1 where there is none.

    >>> weights_of(np.array([1.0, 0.5, 0.001, np.nan, 0.0])).tolist()
    [1.0, 2.0, 10.0, 1.0, 1.0]
    """
    known = propensities > 0
    weights = np.ones(len(propensities), np.float32)
    weights[known] = 1 / np.maximum(propensities[known], 1 / HEAVIEST)
    return weights


def _value(kind: str, text: str | None) -> Any:
    """Return a context's value, which is logged as a text; None where it is not of the kind."""
    if text is None or kind != "number":
        return text
    try:
        return float(text)
    except ValueError:  # it was a category then
        return None
