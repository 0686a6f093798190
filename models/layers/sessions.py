"""A recurrent unit over sessions, whose actions are pooled."""

from typing import Any

from models.backend import keras
from models.layers import slots
from models.layers.gru import Gru

ops = keras.ops


class Sessions(Gru):
    """The last state of a gated recurrent unit over sessions, dense to the items.

    A session (`slots.sessions`) is, per action, the mean of its items and log(1 + number); then its
    newest age, its number and the mean of its further features, where the line asks for them. No
    sum depends on order. Sessions before the 31 newest are one.

    One session of two actions, in either order:

    >>> import numpy as np
    >>> from models.spec import Sessions as Line
    >>> layer = Sessions({"activity_embedding": 2}, n_actions=2, **Line(version=1).parameters())
    >>> items, codes = ops.array([[[1.0], [5.0]], [[5.0], [1.0]]]), ops.array([[1, 2], [2, 1]])
    >>> one, other = layer(items, codes, ops.ones((2, 2)))["activity_embedding"].numpy()
    >>> np.allclose(one, other, atol=1e-6)
    True
    """

    def width(self, item_dim: int) -> int:
        """Return how many features a session has."""
        times = slots.N_TIME_FEATURES if self.use_ages else 0
        numbers = slots.N_SESSION_FEATURES * self.use_sessions
        return self.n_actions * (item_dim + 1) + times + numbers + self.further

    def summarize(
        self, item_embeddings: Any, actions: Any, ages: Any, used: Any, further: Any
    ) -> Any:
        """Return [batch, dim]."""
        there, sessions = self.sessions(item_embeddings, actions, ages, used, further)
        return self.to_items(self.dropout(self.gru(self.dropout(sessions), mask=there)))

    def sessions(
        self, items: Any, actions: Any, ages: Any, used: Any, further: Any = None
    ) -> tuple[Any, Any]:
        """Return where there is a session, bool [batch, sessions], and [batch, sessions, width].

        The newest session is last; a session that is not there has zeros.
        """
        length, item_dim = items.shape[1:]
        count = min(length, slots.MAX_SESSION + 1)
        numbers = ops.arange(count - 1, -1, -1, dtype="float32")
        number = slots.sessions(ages, used, self.session_gap)
        inside = used[:, None] & ops.equal(number[:, None], numbers[:, None])
        there = ops.any(inside, axis=2)
        # [batch, sessions, n_actions, length]
        of_kind = ops.cast(inside, "float32")[:, :, None] * self.of_kinds(actions)[:, None]
        n_of_kind = ops.sum(of_kind, axis=3)
        sums = ops.matmul(
            ops.reshape(of_kind, (-1, count * self.n_actions, length)),
            slots.clean_items(items, used),
        )
        means = ops.reshape(sums, (-1, count, self.n_actions, item_dim))
        means /= ops.maximum(n_of_kind, 1.0)[:, :, :, None]
        features = [
            ops.reshape(means, (-1, count, self.n_actions * item_dim)),
            ops.log1p(n_of_kind),
        ]
        if self.use_ages:
            days = slots.clean_ages(ages, used)[:, None]
            newest = ops.min(ops.where(inside, days, slots.MAX_AGE), axis=2)
            features.append(slots.time_features(newest, there))
        if self.use_sessions:
            features.append(slots.index_features(numbers[None], there))
        if further is not None:
            each = ops.cast(inside, "float32")
            each /= ops.maximum(ops.sum(each, axis=2, keepdims=True), 1.0)
            features.append(ops.matmul(each, further))
        return there, ops.concatenate(features, axis=2)
