"""The downstream ranker's weights: what it scores with them, and the gradient of its loss.

Written out in NumPy: it is so small that a framework's call takes longer than its arithmetic, and
an evaluation fits hundreds of them. A test holds the gradient equal to finite differences.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TOWER = 4
"""Dimensions in which a head multiplies its item features with its member features."""
HEADS = RANK, JUDGE = 0, 1
ITEM_UNITS, MEMBER_UNITS = 32, 16
N_PAIR = 3
"""Features of a pair."""
MASKED = np.float32(-1e9)


@dataclass(frozen=True, eq=False)
class Batch:
    """Labels of one day, and items drawn for all of them.

    Attributes:
        vectors: float32 [labels, vectors, dim].
        member_features: float32 [labels, n].
        positive: bool [labels].
        items: Vectors of the labels' own items, then of the drawn ones: [labels + drawn, dim].
        item_features: Of the same items, [labels + drawn, n].
        log_draws: Log of each item's expected draws, [labels + drawn].
        left_out: Drawn items that do not count against a label, bool [labels, drawn].
        pairs: [labels, labels + drawn, N_PAIR], or None.
    """

    vectors: Floats
    member_features: Floats
    positive: NDArray[np.bool_]
    items: Floats
    item_features: Floats
    log_draws: Floats
    left_out: NDArray[np.bool_]
    pairs: Floats | None = None


@dataclass(frozen=True, eq=False)
class Ranker:
    """Scores = member side · item side, for each head.

    Attributes:
        weights: All of them, flat float32; the arrays below are views of it.
        scales: Mean norm of each of a member's vectors, float32 [vectors, 1].
        item_scale: Mean norm of the items' vectors.
    """

    weights: Floats
    scales: Floats
    item_scale: np.float32
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def new(
        cls, scales: Floats, item_scale: float, sizes: tuple[int, int, int], seed: int
    ) -> "Ranker":
        """Return a ranker with its first weights.

        Args:
            scales: Mean norm of each of a member's vectors, [vectors].
            item_scale: Mean norm of the items' vectors.
            sizes: Dimension of the vectors, number of member features and of item features.
        """
        dim, of_members, of_items = sizes
        shapes = {
            # Per head: a weight for each vector, and an offset to it for each dimension.
            "by_vector": (len(HEADS), len(scales)),
            "by_dimension": (len(HEADS), len(scales), dim),
            "by_pair": (N_PAIR,),
            "item_hidden": (of_items + 1, ITEM_UNITS),
            "item_out": (ITEM_UNITS + 1, len(HEADS) * TOWER),
            "member_hidden": (of_members + 1, MEMBER_UNITS),
            "member_out": (MEMBER_UNITS + 1, len(HEADS) * (TOWER + 1)),
            "bias": (of_members + 1, 1),
        }
        size = sum(int(np.prod(shape)) for shape in shapes.values())
        column = np.asarray(scales, np.float32)[:, None]
        ranker = cls(np.zeros(size, np.float32), column, np.float32(item_scale), shapes)
        rng, arrays = np.random.default_rng([seed, 1]), ranker.arrays(ranker.weights)
        arrays["by_vector"][RANK] = rng.normal(1.0, 0.1, len(scales))
        for name in ("item_hidden", "item_out", "member_hidden", "member_out"):
            kernel = arrays[name][:-1]  # the last row is the bias
            most = np.sqrt(6 / sum(kernel.shape))  # Glorot and Bengio, 2010
            kernel[:] = rng.uniform(-most, most, kernel.shape)
        return ranker

    def arrays(self, flat: Floats) -> dict[str, Floats]:
        """Return views of a flat array, by the names of the weights."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            views[name] = flat[start : start + size].reshape(shape)
            start += size
        return views

    def member_side(self, vectors: Floats, member_features: Floats) -> list[tuple[Floats, Floats]]:
        """Return for each head what multiplies items' vectors, [n, dim], and towers, [n, TOWER].

        Arguments as in `Batch`.
        """
        members = self._members(self.arrays(self.weights), vectors, member_features)
        return [(members[f"mixed{h}"] / self.item_scale, members[f"tower{h}"]) for h in HEADS]

    def item_towers(self, features: Floats, head: int) -> Floats:
        """Return [TOWER, items] of a head, from the features of all items [items, n].

        It is what an evaluation spends most time on: so items lie along the rows, and only what the
        head needs is computed.
        """
        arrays = self.arrays(self.weights)
        hidden, out = arrays["item_hidden"], _tower(arrays["item_out"], head)
        units = hidden[:-1].T @ features.T
        units += hidden[-1][:, None]
        found = out[:-1].T @ np.maximum(units, 0, out=units)
        found += out[-1][:, None]
        return found

    def pair_side(self, pairs: Floats) -> Floats:
        """Return what another recommender's scores add, [n, items] from [n, items, N_PAIR]."""
        return pairs @ self.arrays(self.weights)["by_pair"]

    def bias(self, member_features: Floats) -> Floats:
        """Return what a member's features say of every judgement, [n]."""
        return _dense(self.arrays(self.weights)["bias"], member_features)[:, 0]

    def _members(
        self, arrays: dict[str, Floats], vectors: Floats, features: Floats
    ) -> dict[str, Any]:
        hidden = _relu(_dense(arrays["member_hidden"], features))
        out = _dense(arrays["member_out"], hidden)
        found = {"hidden": hidden, "out": out}
        flat = vectors.reshape(len(vectors), -1)
        for head in HEADS:
            weights = (arrays["by_dimension"][head] + arrays["by_vector"][head][:, None]) / (
                self.scales
            )
            weighed = (flat * weights.ravel()).reshape(vectors.shape).sum(axis=1)
            trust = np.logaddexp(0, out[:, len(HEADS) * TOWER + head])[:, None]
            found |= {
                f"weighed{head}": weighed,
                f"trust{head}": trust,
                f"mixed{head}": weighed * trust,
                f"tower{head}": _tower(out, head),
            }
        return found

    def loss(self, batch: Batch, l2: float) -> float:
        """Return the loss of a batch; see `gradient`."""
        return float(self._both(batch, l2)[0])

    def gradient(self, batch: Batch, l2: float) -> Floats:
        """Return the gradient of the loss of a batch, flat as the weights.

        The loss is a sampled softmax over the positives, plus the logistic loss of the judgements,
        plus l2 times the squares of the weights per dimension. The softmax has the logQ correction:
        every score minus the log of the item's expected draws (Yi et al., "Sampling-bias-corrected
        neural modeling", 2019).
        """
        return self._both(batch, l2)[1]

    def _both(self, batch: Batch, l2: float) -> tuple[float, Floats]:
        arrays, flat = self.arrays(self.weights), np.zeros_like(self.weights)
        gradient = self.arrays(flat)
        n = len(batch.positive)
        positive = batch.positive.astype(np.float32)
        members = self._members(arrays, batch.vectors, batch.member_features)
        hidden = _relu(_dense(arrays["item_hidden"], batch.item_features))
        out = _dense(arrays["item_out"], hidden)
        items = batch.items / self.item_scale
        own, drawn = items[:n], items[n:]
        towers = [_tower(out, head) for head in HEADS]

        mixed, tower = members[f"mixed{RANK}"], members[f"tower{RANK}"]
        score = (mixed * own).sum(1) + (tower * towers[RANK][:n]).sum(1) - batch.log_draws[:n]
        against = mixed @ drawn.T + tower @ towers[RANK][n:].T - batch.log_draws[n:]
        if batch.pairs is not None:
            by_pair, each = arrays["by_pair"], np.arange(n)
            score += batch.pairs[each, each] @ by_pair
            against += batch.pairs[:, n:] @ by_pair
        against[batch.left_out] = MASKED
        highest = np.maximum(against.max(axis=1), score)
        against = np.exp(against - highest[:, None])
        total = against.sum(axis=1) + np.exp(score - highest)
        share = positive / max(float(positive.sum()), 1.0)
        ranking = float(share @ (np.log(total) + highest - score))
        against *= (share / total)[:, None]
        ours = share * (np.exp(score - highest) / total - 1)

        judged = (members[f"mixed{JUDGE}"] * own).sum(1)
        judged += (members[f"tower{JUDGE}"] * towers[JUDGE][:n]).sum(1)
        judged += _dense(arrays["bias"], batch.member_features)[:, 0]
        judging = float((np.logaddexp(0, judged) - positive * judged).mean())
        ours_judged = ((_sigmoid(judged) - positive) / n).astype(positive.dtype)

        to_mixed = [
            ours[:, None] * own + against @ drawn,
            ours_judged[:, None] * own,
        ]
        to_tower = [
            ours[:, None] * towers[RANK][:n] + against @ towers[RANK][n:],
            ours_judged[:, None] * towers[JUDGE][:n],
        ]
        to_items = np.zeros_like(out)
        rank, judge = (slice(head * TOWER, (head + 1) * TOWER) for head in HEADS)
        to_items[:n, rank] = ours[:, None] * tower
        to_items[n:, rank] = against.T @ tower
        to_items[:n, judge] = ours_judged[:, None] * members[f"tower{JUDGE}"]
        to_out = np.zeros_like(members["out"])
        for head in HEADS:
            trust, logit = members[f"trust{head}"], members["out"][:, len(HEADS) * TOWER + head]
            to_out[:, head * TOWER : (head + 1) * TOWER] = to_tower[head]
            to_trust = (to_mixed[head] * members[f"weighed{head}"]).sum(axis=1)
            to_out[:, len(HEADS) * TOWER + head] = to_trust * _sigmoid(logit)
            to_weighed = (to_mixed[head] * trust)[:, None]
            to_weights = (batch.vectors * to_weighed).sum(axis=0) / self.scales
            gradient["by_vector"][head] = to_weights.sum(axis=1)
            gradient["by_dimension"][head] = to_weights + 2 * l2 * arrays["by_dimension"][head]
        if batch.pairs is not None:
            gradient["by_pair"][:] = np.einsum("ni,nip->p", against, batch.pairs[:, n:])
            gradient["by_pair"] += ours @ batch.pairs[each, each]
        _back(gradient, arrays, "item", batch.item_features, hidden, to_items)
        _back(gradient, arrays, "member", batch.member_features, members["hidden"], to_out)
        _dense_back(gradient["bias"], batch.member_features, ours_judged[:, None])
        penalty = l2 * float((arrays["by_dimension"] ** 2).sum())
        return ranking + judging + penalty, flat


def _tower(out: Floats, head: int) -> Floats:
    return out[:, head * TOWER : (head + 1) * TOWER]


def _dense(weights: Floats, inputs: Floats) -> Floats:
    return inputs @ weights[:-1] + weights[-1]


def _relu(values: Floats) -> Floats:
    return np.maximum(values, 0)


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -values))


def _dense_back(gradient: Floats, inputs: Floats, to_outputs: Floats) -> None:
    gradient[:-1] = inputs.T @ to_outputs
    gradient[-1] = to_outputs.sum(axis=0)


def _back(
    gradient: dict[str, Floats],
    arrays: dict[str, Floats],
    side: str,
    inputs: Floats,
    hidden: Floats,
    to_out: Floats,
) -> None:
    """Add the gradient of a side's two layers."""
    _dense_back(gradient[f"{side}_out"], hidden, to_out)
    to_hidden = (to_out @ arrays[f"{side}_out"][:-1].T) * (hidden > 0)
    _dense_back(gradient[f"{side}_hidden"], inputs, to_hidden)
