"""Item vectors trained through an aggregator: a linear map of text and co-actions.

The map and the aggregator's layer learn one objective together, so one training gives the fit of
the space and that of the line that reads it (models/items/learning/through.py). In training, an
item's co-actions are those of before the label's block of time, so that no row holds its own label.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.items import spec
from models.items.co_actions import behaviour_of
from models.items.joint import Joint, Parts, figures_of, parts_of, principal
from models.items.learning.archive import ids_array, ids_of, packed, unpacked
from models.items.learning.popularity import NEVER, PopularityByDay
from models.items.learning.text_ridge import encode_text
from models.items.learning.windows import Labels, edges_of, labels_of
from models.items.protocol import Behaviour, Corpus
from models.items.similarity import unit
from transformations.errors import InputError, TooFewError
from transformations.names import SINGLE_VECTOR

if TYPE_CHECKING:
    from models.items.learning.through import Material

BLOCKS = 20
"""Each holds 5% of the positive actions."""
LENGTH = 32
"""Actions of a history at most."""
LEAST_LABELS = 100
LATER, LATER_RATE = 0.3, 0.1
"""Shares of the epochs and of the learning rate, of a fit that goes on from another. Small steps
move what was learned before the buffer little; on IFDB the full rate was neither better nor worse
(docs/training.md, "Fits that go on")."""
N_SIGNS = 2
"""Features of a sign: whether an action is positive, and whether negative."""


@dataclass(frozen=True)
class Trained(Joint):
    """A fitted encoder, with the layer that was trained with it.

    Attributes:
        layer_weights: Weights of the line's layer, in the order of Keras's `get_weights`.
        own: The parts that items have of their own; None without.
        popularity: Weights of what is popular, which a fit that goes on begins with; None where an
            older version made it.
        actions: What the layer's codes stand for, in order; a fit that goes on reads the same.
    """

    layer_weights: tuple[NDArray[np.float32], ...] = ()
    own: "OwnParts | None" = None
    popularity: NDArray[np.float32] | None = None
    actions: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        line: spec.ItemEncoder,
        corpus: Corpus,
        dim: int,
        progress: Callable[[int, int], object] | None = None,
    ) -> Self:
        """Fit on all that the corpus holds; a later event or item is not in it.

        The same corpus gives the same weights on the same machine.

        Args:
            progress: Called after each epoch with its number, of how many.

        Raises:
            TooFewError: as `Parts.fit` and `principal`; or too few actions have one before them.
            InputError: the line's layer reads attributes.
        """
        assert isinstance(line, spec.Trained)
        if line.layer.attributes:
            raise InputError(
                f"{line}: expected a layer that reads items, actions, ages and signs, got one that "
                f"reads {', '.join(line.layer.attributes)} too"
            )
        parts = Parts.fit(line, corpus, dim, line.text_dim)
        start = principal(parts.features(corpus), dim)
        return cls._trained(line, parts, start, corpus, _material(line, parts, corpus), progress)

    def go_on(
        self,
        line: spec.ItemEncoder,
        corpus: Corpus,
        since: int,
        progress: Callable[[int, int], object] | None = None,
    ) -> Self:
        """As `GoesOn.go_on`: words stay those of before, new items become contexts of co-actions.

        Raises:
            TooFewError: as `fit`.
            InputError: the actions are others by now.
        """
        assert isinstance(line, spec.Trained)
        behaviour, _ = behaviour_of(corpus)
        now = line.layer.reads or behaviour.actions
        if now != self.actions:
            known = ", ".join(self.actions) or "an unknown order of them"
            raise InputError(f"it reads the actions {known}, now {', '.join(now)}")
        parts = replace(self.parts, basis=self.parts.basis.grown(behaviour))
        material = _material(line, parts, corpus, since)
        return self._trained(line, parts, self.map, corpus, material, progress, self)

    @classmethod
    def _trained(
        cls,
        line: spec.Trained,
        parts: Parts,
        start: NDArray[np.float32],
        corpus: Corpus,
        material: "Material",
        progress: Callable[[int, int], object] | None,
        before: "Trained | None" = None,
    ) -> Self:
        """Train through the layer; from its first weights, or from those of before."""
        from models.backend import keras
        from models.items.learning.through import Course, First, train

        course, first = Course(LENGTH, line.epochs, line.seed, line.labels), None
        actions = line.layer.reads or material.behaviour.actions
        keras.utils.set_random_seed(line.seed)
        layer = _layer(line, start.shape[1], len(actions))
        if before is not None:
            layer.set_weights(before.layer_weights)
            rate = course.learning_rate * LATER_RATE
            epochs = math.ceil(line.epochs * LATER)
            course = replace(course, epochs=epochs, learning_rate=rate)
            own = None
            if before.own is not None and corpus.ids is not None:
                own = before.own.of_ids(corpus.ids)
            first = First(before.figures["temperature"], before.popularity, own)
        outcome = train(layer, start, material, course, progress, first)
        figures = figures_of(parts, parts.features(corpus), outcome.map) | {
            "labels": len(material.labels),
            "losses": [round(loss, 4) for loss in outcome.losses],
            "temperature": round(outcome.temperature, 3),
        }
        weights = tuple(np.asarray(weight) for weight in layer.get_weights())
        own_parts = None
        if outcome.own is not None and corpus.ids is not None:
            own_parts = OwnParts(corpus.ids, outcome.own, line.own_part)
        popularity = outcome.popularity.astype(np.float32)
        return cls(parts, outcome.map, figures, weights, own_parts, popularity, actions)

    def built_layer(self, line: spec.Trained) -> Any:
        """Return the layer with its weights, as Keras has it."""
        layer = _layer(line, self.dim, len(self.actions))
        layer.set_weights(self.layer_weights)
        return layer

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """As `Joint.encode`; an item that the fit saw also has its own part, if there are any."""
        if self.own is None:
            return super().encode(corpus)
        features, counts = self.parts.with_counts(corpus)
        return unit(features @ self.map + self.own.of(corpus, counts))

    def to_bytes(self) -> bytes:
        """Return the encoder as a NumPy archive: equal bytes for equal encoders."""
        arrays, facts = self.archived()
        facts |= {"actions": list(self.actions)}
        layer = {f"layer_{number}": weight for number, weight in enumerate(self.layer_weights)}
        if self.own is not None:
            layer |= {"own_ids": ids_array(self.own.ids), "own": self.own.vectors}
            facts |= {"own_part": self.own.shrink}
        if self.popularity is not None:
            layer |= {"popularity": self.popularity}
        return packed(arrays | layer, facts)

    @classmethod
    def from_bytes(cls, archive: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        arrays, facts = unpacked(archive)
        n_weights = sum(name.startswith("layer_") for name in arrays)
        weights = tuple(arrays[f"layer_{number}"] for number in range(n_weights))
        own = None
        if "own" in arrays:
            own = OwnParts(ids_of(arrays["own_ids"]), arrays["own"], facts["own_part"])
        parts, popularity = parts_of(arrays, facts), arrays.get("popularity")
        actions = tuple(facts.get("actions", ()))
        return cls(parts, arrays["map"], facts["figures"], weights, own, popularity, actions)


def _layer(line: spec.Trained, dim: int, n_actions: int) -> Any:
    from models.layers.build import layer_class

    layer = layer_class(line.layer)(
        {SINGLE_VECTOR: dim},
        n_actions=n_actions,
        **line.layer.parameters(),
        **({"further": N_SIGNS} if line.layer.reads_signs else {}),
    )
    layer.build((None, LENGTH, dim), (None, LENGTH), (None, LENGTH))
    return layer


@dataclass(frozen=True)
class OwnParts:
    """What items that the fit saw have beside the map of their features.

    Attributes:
        ids: The items.
        vectors: float32 [items, dim].
        shrink: n / (n + shrink) of it counts, with n positive actions so far.
    """

    ids: pa.Array
    vectors: NDArray[np.float32]
    shrink: float

    def of(self, corpus: Corpus, counts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return them for items with these counts, float32 [items, dim]; zeros for others."""
        if corpus.ids is None:
            return np.zeros((len(corpus), self.vectors.shape[1]), np.float32)
        return self.of_ids(corpus.ids) * _shrunk(counts, self.shrink)[:, None]

    def of_ids(self, ids: pa.Array) -> NDArray[np.float32]:
        """Return the parts as they are, float32 [ids, dim]; zeros for an item that has none."""
        places = pc.fill_null(pc.index_in(ids, self.ids), -1)
        index = places.to_numpy(zero_copy_only=False).astype(np.int64)
        found = np.zeros((len(ids), self.vectors.shape[1]), np.float32)
        found[index >= 0] = self.vectors[index[index >= 0]]
        return found


def _shrunk(counts: NDArray[np.int64], shrink: float) -> NDArray[np.float32]:
    return (counts / (counts + shrink)).astype(np.float32)


def _material(
    line: spec.Trained, parts: Parts, corpus: Corpus, since: int | None = None
) -> "Material":
    """Return what is trained on; items are rows of the corpus.

    Args:
        since: Labels before it are left out; what they did then is history all the same.

    Raises:
        TooFewError: too few labels.
    """
    from models.items.learning.through import Material

    whole, ids = behaviour_of(corpus)
    behaviour = on_rows(whole, ids)
    if not (behaviour.signs > 0).any():
        raise TooFewError("it learns from positive actions on items with a text, got none")
    known_since = np.zeros(len(ids), np.int64)
    if corpus.available_at is not None:
        known_since = corpus.available_at.copy()
    # Whoever acts on an item knows it.
    np.minimum.at(known_since, behaviour.items, behaviour.timestamps)
    if corpus.candidates is not None:
        known_since[~corpus.candidates] = NEVER
    popularity = PopularityByDay.count(behaviour, known_since)
    labels = _labels(line, behaviour)
    # What was posted the same day could not have been shown, as the negatives could not; what is
    # never predicted is neither.
    events = labels.events
    days = popularity.rows_of(behaviour.timestamps[events])
    taken = popularity.is_known(days, behaviour.items[events].astype(np.int64))
    if since is not None:
        taken &= behaviour.timestamps[events] >= since
    labels = labels.take(np.flatnonzero(taken))
    if len(labels) < LEAST_LABELS:
        raise TooFewError(
            f"a layer and its item space learn from positive actions that follow others, on items "
            f"with a text; expected at least {LEAST_LABELS}, got {len(labels)}"
        )
    edges = edges_of(behaviour.timestamps[behaviour.signs > 0], BLOCKS)
    blocks = np.searchsorted(edges, behaviour.timestamps[labels.events], side="right") - 1
    texts = encode_text(parts.text, corpus.documents)

    @cache
    def co_actions(block: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return parts.basis.fold_in(whole.before(int(edges[block])), ids)

    def features(block: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors, counts = co_actions(block)
        return parts.joined(vectors[rows], counts[rows], texts[rows])

    def own(block: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return _shrunk(co_actions(block)[1][rows], line.own_part)

    read = _as_read(line, behaviour)
    return Material(read, labels, blocks, features, popularity, own if line.own_part else None)


def on_rows(behaviour: Behaviour, ids: pa.Array) -> Behaviour:
    """Return the actions on items of these ids, as rows of them."""
    rows = pc.fill_null(pc.index_in(behaviour.item_ids, ids), -1)
    items = rows.to_numpy(zero_copy_only=False).astype(np.int32)[behaviour.items]
    return replace(behaviour, items=items, item_ids=ids).take(items >= 0)


def _labels(line: spec.Trained, behaviour: Behaviour) -> Labels:
    """Return the labels of the actions that the line's layer predicts."""
    labels = labels_of(behaviour, LENGTH)
    if not line.layer.predicts:
        return labels
    codes = _codes(line.layer.predicts, behaviour)
    return labels.take(np.flatnonzero(np.isin(behaviour.codes[labels.events], codes)))


def _as_read(line: spec.Trained, behaviour: Behaviour) -> Behaviour:
    """Return the behaviour with the layer's own codes; actions that it does not read are PAD."""
    if not line.layer.reads:
        return behaviour
    own = np.zeros(len(behaviour.actions) + 1, np.int16)
    own[_codes(line.layer.reads, behaviour)] = np.arange(1, len(line.layer.reads) + 1)
    return replace(behaviour, codes=own[behaviour.codes])


def _codes(actions: tuple[str, ...], behaviour: Behaviour) -> list[int]:
    unknown = set(actions) - set(behaviour.actions)
    if unknown:
        raise InputError(
            f"expected actions among {', '.join(behaviour.actions)}, got "
            f"{', '.join(sorted(unknown))}"
        )
    return [1 + behaviour.actions.index(action) for action in actions]
