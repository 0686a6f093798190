"""How training examples are made: the parameters of the SQL."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from transformations.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """How activity becomes training examples: windows, labels, random negatives, sessions.

    Attributes:
        labels: `next`: a window's label is the one action that follows it. `all`: every action
            of the next `horizon` is a label.
        horizon: How far `all` looks ahead.
        inputs: `before_label`: a window ends right before its label. `snapshot`: it ends at the
            newest midnight UTC that was readable (`publish_delay`) at the label's time, like the
            daily snapshot that a ranker reads.
        min_actions: Members with fewer actions are left out.
        stride: Every stride-th action of a member is a label.
        random_negatives: Rows with a random item per positive row; 0 for none.
        random_negative_shift: A random negative's timestamp is the positive's plus a uniform
            random shift of at most this, either way.
        random_negative_weight: Weight of a random negative; lower than that of a true negative.
        negative_weight: Weight of a true negative (DISMISS).
        random_negatives_in_inputs: Whether random negatives also enter the input sequences.
        session_gap: Actions of a member less than this apart share a session.
        skip_own_session: Leave out labels in the session of the input's last action.
        seed: Seed of the random negatives.
    """

    labels: Literal["next", "all"] = "next"
    horizon: timedelta = timedelta(days=7)
    inputs: Literal["before_label", "snapshot"] = "snapshot"
    min_actions: int = 4
    stride: int = 1
    random_negatives: int = 1
    random_negative_shift: timedelta = timedelta(hours=1)
    random_negative_weight: float = 0.5
    negative_weight: float = 1.0
    random_negatives_in_inputs: bool = False
    session_gap: timedelta = timedelta(minutes=30)
    skip_own_session: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_actions", 1), ("stride", 1), ("random_negatives", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("horizon", "session_gap"):
            if getattr(self, name) <= timedelta(0):
                raise InputError(f"{name}: expected a time above zero, got {getattr(self, name)}")
        if self.random_negative_shift < timedelta(0):
            raise InputError(
                f"random_negative_shift: expected 0 or more, got {self.random_negative_shift}"
            )
        for name in ("random_negative_weight", "negative_weight"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: expected a number above 0, got {getattr(self, name)}")
