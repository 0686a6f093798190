"""Features of each slot of a sequence, besides the item's vector.

A slot is used if its action is not PAD. Nothing here reads an unused slot's item vector or age, and
every count starts at the newest action, so more padding changes nothing. Shapes are [batch,
length], or [batch, length, features] for features.
"""

import math
from typing import Any

from models.backend import keras

ops = keras.ops

MAX_AGE = 1e6
"""Days; larger ages are cut to this."""
MAX_VALUE = 1e4
"""Larger values of an item's vector are cut; real ones are smaller, and squares stay finite."""
MAX_SESSION = 31
"""Older sessions share this index."""
MINUTES_PER_DAY = 1440.0
# As float32, ages in days resolve half a second up to 64 days: 30:00 is a gap of 30 minutes, 29:59
# is not.
HALF_A_SECOND = 0.5 / 60
SCALES = (1.0, 7.0, 28.0)
"""Days after which an exponential time feature has lost 63%."""
PERIODS = (1.0, 7.0)
"""Days of the periodic time features."""
N_TIME_FEATURES = 1 + len(SCALES) + 2 * len(PERIODS)
N_SESSION_FEATURES = N_RANK_FEATURES = 2


def is_used(actions: Any) -> Any:
    """Return where a slot holds an action: bool."""
    return ops.not_equal(actions, 0)


def clean_items(items: Any, used: Any) -> Any:
    """Return the item vectors, zeros in unused slots, cut at ±MAX_VALUE."""
    return ops.clip(ops.where(used[:, :, None], items, 0.0), -MAX_VALUE, MAX_VALUE)


def clean_ages(ages: Any, used: Any) -> Any:
    """Return the ages in days, from 0 to MAX_AGE; 0 in unused slots."""
    return ops.clip(ops.where(used, ages, 0.0), 0.0, MAX_AGE)


def ranks(used: Any) -> Any:
    """Return how many actions follow each slot, 0.0 at the newest action; float32."""
    counted = ops.cast(used, "float32")
    return ops.sum(counted, axis=-1, keepdims=True) - ops.cumsum(counted, axis=-1)


def rank_features(used: Any) -> Any:
    """Return log(1 + rank), scaled to 1 at rank 31, and 1 / (1 + rank); zeros where unused."""
    rank = ranks(used)[:, :, None]
    features = ops.concatenate([ops.log1p(rank) / math.log(32), 1.0 / (1.0 + rank)], axis=2)
    return ops.where(used[:, :, None], features, 0.0)


def sessions(ages: Any, used: Any, gap: float) -> Any:
    """Return each action's session, 0.0 for the newest one, at most MAX_SESSION; 0 where unused.

    A gap of at least `gap` minutes between two neighbouring actions starts a new session; PAD in
    between is skipped.
    """
    ages = clean_ages(ages, used)
    # Ages fall from oldest to newest, so the next action's age is the largest after a slot. Each
    # step doubles how far the maximum looks.
    following = _shifted(ops.where(used, ages, -1.0), 1)
    step = 1
    while step < ages.shape[1]:
        following = ops.maximum(following, _shifted(following, step))
        step *= 2
    minutes = MINUTES_PER_DAY * (ages - following)
    ends = used & (following >= 0) & (minutes >= gap - HALF_A_SECOND)
    ended = ops.flip(ops.cumsum(ops.flip(ops.cast(ends, "float32"), axis=1), axis=1), axis=1)
    return ops.where(used, ops.minimum(ended, float(MAX_SESSION)), 0.0)


def _shifted(values: Any, step: int) -> Any:
    """Return at each slot the value of the one `step` later; -1 past the end."""
    return ops.pad(values[:, step:], ((0, 0), (0, step)), constant_values=-1.0)


def time_features(ages: Any, used: Any) -> Any:
    """Return bounded features of the ages, zeros where unused.

    log(1 + days), at most 4.2; e^(-days/scale) for each of SCALES; sine and cosine for each of
    PERIODS, which show whether it was at as_of's time of day and weekday.
    """
    days = clean_ages(ages, used)[:, :, None]
    turns = [2 * math.pi / period * days for period in PERIODS]
    features = [
        ops.log1p(days) / math.log1p(SCALES[-1]),
        *(ops.exp(-days / scale) for scale in SCALES),
        *(ops.sin(turn) for turn in turns),
        *(ops.cos(turn) for turn in turns),
    ]
    return ops.where(used[:, :, None], ops.concatenate(features, axis=2), 0.0)


def session_features(ages: Any, used: Any, gap: float) -> Any:
    """Return each action's session as log(1 + index), from 0 to 1, and whether it is the newest."""
    return index_features(sessions(ages, used, gap), used)


def index_features(index: Any, used: Any) -> Any:
    """Return log(1 + index) of sessions, from 0 to 1, and whether it is the newest; as `used`."""
    index = index[:, :, None]
    newest = ops.cast(ops.equal(index, 0.0), "float32")
    features = [ops.log1p(index) / math.log1p(MAX_SESSION), newest]
    return ops.where(used[:, :, None], ops.concatenate(features, axis=2), 0.0)
