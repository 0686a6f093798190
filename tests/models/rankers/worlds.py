"""A tiny market for rankers: members like items of their own kind, near vectors, and fresh ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.rankers.inputs import Columns, Inputs, Labelled
from models.rankers.lines import BoostedTrees, Linear, WideAndDeep
from models.rankers.spec import Ranker

HEADS = {"APPLY": 1.0, "DISMISS": -1.0}
DIM = 4
GROUP = 8
LINES: tuple[Ranker, ...] = (
    Linear(version=1),
    Linear(name="linear_token", version=1, impute="token"),
    BoostedTrees(version=1, trees=40, leaves=7, min_rows=5, learning_rate=0.2),
    BoostedTrees(name="trees_entries", version=1, trees=20, leaves=7, min_rows=5, entries=True),
    WideAndDeep(version=1, epochs=5, batch_size=256, learning_rate=0.01, embedding_dim=4),
    WideAndDeep(
        name="hashed",
        version=1,
        wide=("item.", "ids"),
        deep=(8,),
        epochs=5,
        batch_size=256,
        learning_rate=0.01,
        embedding_dim=4,
        hashed_ids=64,
        balanced=True,
        impute="mode",
    ),
)


def market(
    seed: int = 0, groups: int = 200, chance: float = 1.0, shown: bool = False, missing: float = 0.2
) -> Labelled:
    """Return groups of 8 pairs: one item matches the member's vector and kind, and is applied to.

    Args:
        chance: With which the matching one is what came of the group.
        shown: Whether the pairs have positions.
        missing: Share of the numbers that are.
    """
    rng = np.random.default_rng(seed)
    n = groups * GROUP

    def number(rows: int) -> np.ndarray:
        values = rng.normal(size=rows).astype(np.float32)
        values[rng.random(rows) < missing] = np.nan
        return values

    def vectors(rows: int) -> np.ndarray:
        drawn = rng.normal(size=(rows, DIM)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    taste, best = vectors(groups), rng.integers(0, GROUP, groups)
    member_rows = np.repeat(np.arange(groups), GROUP)
    chosen = np.arange(groups) * GROUP + best
    item = vectors(n) * 3.0
    item[chosen] = taste * 3.0 + 0.3 * item[chosen]
    match = (item * taste[member_rows]).sum(axis=1) / np.linalg.norm(item, axis=1)
    kinds = np.array(["health", "school", "trade"], dtype=object)
    category = kinds[rng.integers(0, 3, n)]
    members = Columns(
        {"member.n_actions": number(groups), "member.hours": np.exp(number(groups))},
        {"member.city": np.array([*rng.choice(["Rome", "Bern"], groups - 1), None], object)},
        {"member.decay_v1": taste},
    )
    items = Columns(
        {"item.n_apply_7d": np.abs(number(n)) * 100, "item.age_days": number(n)},
        {"item.category": category},
        {"item.tfidf_svd_v1": item},
    )
    pairs = Columns({"pair.cosine_decay_v1": match.astype(np.float32), "pair.rank": number(n)})
    happens = rng.random(groups) < chance
    targets = np.zeros((n, 2), np.float32)
    targets[chosen[happens], 0] = 1.0
    targets[np.flatnonzero(category == "trade"), 1] = 1.0
    targets[targets[:, 0] > 0, 1] = 0.0
    spaces = {"member.decay_v1": "item.tfidf_svd_v1"}
    return Labelled(
        Inputs(members, items, pairs, member_rows, np.arange(n), spaces),
        targets,
        np.ones(n, np.float32),
        member_rows,
        np.tile(np.arange(GROUP), groups) if shown else np.full(n, -1),
    )


def nothing(labelled: Labelled) -> Labelled:
    return labelled.take(np.zeros(0, np.int64))


def changed(inputs: Inputs, side: str, **kinds: Mapping[str, Any]) -> Inputs:
    """Return inputs with other columns: changed(inputs, "items", categories={...})."""
    columns = getattr(inputs, side)
    held = {kind: getattr(columns, kind) for kind in ("numbers", "categories", "vectors")}
    return Inputs(**{**vars(inputs), side: Columns(**{**held, **kinds})})
