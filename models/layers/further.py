"""The signs and attributes of a sequence's actions as features of their slots."""

from collections.abc import Mapping
from typing import Any

from models.backend import keras
from models.inputs import N_KNOWN_CODES, Inputs, Number
from models.layers import slots

ops = keras.ops

MOST_DEVIATIONS = 5.0
"""Numbers further from the mean are cut."""


def width(inputs: Inputs) -> int:
    """Return how many features a slot has."""
    of_attributes = (
        2 if isinstance(kept, Number) else N_KNOWN_CODES + len(kept.values)
        for kept in inputs.attributes.values()
    )
    return 2 * inputs.signs + sum(of_attributes)


class Further(keras.layers.Layer):
    """Features float32 [batch, length, width], zeros in a PAD slot.

    The sign as two: 1 where it is positive, and where it is negative. A number as two: its distance
    from the fit's mean in standard deviations (0 where it is missing), and 1 where it is missing. A
    category as one for each of its codes.

    >>> inputs = Inputs(signs=True, attributes={"dwell": Number(mean=10.0, deviation=5.0)})
    >>> further = Further(inputs)
    >>> given = {"signs": ops.array([[0, -1, 1]]), "dwell": ops.array([[0.0, 20.0, float("nan")]])}
    >>> further(ops.array([[0, 2, 1]]), given).numpy().tolist()
    [[[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 0.0], [1.0, 0.0, 0.0, 1.0]]]
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(dtype="float32")
        self.inputs = inputs

    def call(self, actions: Any, given: Mapping[str, Any]) -> Any:
        """Return the features; `given` holds the further inputs by name."""
        used = slots.is_used(actions)
        features = []
        if self.inputs.signs:
            signs = given["signs"]
            features += [ops.cast(signs > 0, "float32"), ops.cast(signs < 0, "float32")]
        features = [feature[:, :, None] for feature in features]
        for name, kept in self.inputs.attributes.items():
            if isinstance(kept, Number):
                missing = ops.isnan(given[name])
                distance = (ops.where(missing, kept.mean, given[name]) - kept.mean) / kept.deviation
                distance = ops.clip(distance, -MOST_DEVIATIONS, MOST_DEVIATIONS)
                features += [distance[:, :, None], ops.cast(missing, "float32")[:, :, None]]
            else:
                features.append(ops.one_hot(given[name], N_KNOWN_CODES + len(kept.values)))
        return ops.where(used[:, :, None], ops.concatenate(features, axis=2), 0.0)


class OwnCodes(keras.layers.Layer):
    """The codes of a line that reads some actions only: 1, 2, … of those; the others are PAD.

    >>> OwnCodes([1, 3])(ops.array([[0, 1, 2, 3]])).numpy()
    array([[0, 1, 0, 2]], dtype=int32)
    """

    def __init__(self, codes: list[int]) -> None:
        super().__init__()
        self.codes = codes

    def call(self, actions: Any) -> Any:
        """Return the line's codes; int32, as `actions`."""
        own = ops.zeros_like(actions)
        for code, configured in enumerate(self.codes, start=1):
            own = ops.where(ops.equal(actions, configured), code, own)
        return own
