"""Consecutive blocks of time: each judges a ranker that is fitted to what came before it.

The labels are divided into equal blocks, in their order, and the last BLOCKS of them judge. The
newest share of what a ranker is fitted to stops it early, as in a training, so no block is seen
before it judges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from models.evaluation.metrics import ndcg_in_groups
from models.rankers.inputs import Inputs, Labelled
from models.rankers.labels import gains
from models.rankers.spec import Ranker
from pipelines.ranking.train import VALIDATION, Examples, border_of
from transformations.errors import TooFewError

BLOCKS = 3
"""Blocks that judge; one more comes before them."""


@dataclass(frozen=True, eq=False)
class Block:
    """What one block of time judges: a ranker that is fitted to what came before it."""

    train: Labelled
    validation: Labelled
    judges: Labelled

    def value(self, line: Ranker, heads: Mapping[str, float], seed: int) -> float:
        """Return the mean NDCG@10 over the block's groups of a ranker fitted before it."""
        fitted = line.fitted_class().fit(line, heads, self.train, self.validation, seed)
        worth = gains(self.judges.targets, [*heads.values()])
        groups = self.judges.groups
        return float(ndcg_in_groups(fitted.scores(self.judges.inputs), worth, groups, 10).mean())


def blocks_of(examples: Examples, heads: Mapping[str, float]) -> list[Block]:
    """Divide a line's pairs by the times of their labels, into BLOCKS that judge.

    Raises:
        InputError: a block has no group with something to choose, or nothing comes before it.
    """
    times, first = examples.times, border_of(examples.times, 1 - VALIDATION)
    pairs = together(examples.train, examples.validation, first)
    borders = [border_of(times, block / (BLOCKS + 1)) for block in range(1, BLOCKS + 1)]
    found = []
    for begin, end in zip(borders, [*borders[1:], len(times)], strict=True):
        stop = border_of(times[:begin], 1 - VALIDATION) if begin else 0
        block = Block(
            between_labels(pairs, 0, stop),
            between_labels(pairs, stop, begin),
            between_labels(pairs, begin, end),
        )
        worth = gains(block.judges.targets, [*heads.values()])
        judged = ndcg_in_groups(np.zeros(len(worth)), worth, block.judges.groups, 10)
        if not len(block.train) or not len(judged):
            raise TooFewError(
                f"expected labels with something to choose from in each of {BLOCKS} blocks of "
                f"time, and labels before them; got {len(times):,} labels in all. More days, or "
                "more `labels` of the line, give more"
            )
        found.append(block)
    return found


def together(first: Labelled, second: Labelled, labels: int) -> Labelled:
    """Return the pairs of both; the groups of the second count on from `labels`."""
    return Labelled(
        Inputs.concatenated([first.inputs, second.inputs]),
        np.concatenate([first.targets, second.targets]),
        np.concatenate([first.weights, second.weights]),
        np.concatenate([first.groups, second.groups + labels]),
        np.concatenate([first.positions, second.positions]),
    )


def between_labels(pairs: Labelled, begin: int, end: int) -> Labelled:
    """Return the pairs of the labels [begin, end), without the members and items of others."""
    first, last = np.searchsorted(pairs.groups, [begin, end])
    some = pairs.take(np.arange(first, last))
    return replace(some, inputs=some.inputs.compact())
