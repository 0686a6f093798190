"""How a learned aggregator is trained, in plain Python; part of its line in the catalogue."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from transformations.errors import InputError
from transformations.example_settings import ExampleSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights besides the data. The manifest keeps it.

    Attributes:
        objective: `next_action` (the post's proxy task: positive or negative), `next_item`
            (sampled softmax over items) or `all_action` (every positive of the next days).
        examples: How the training examples are made.
        negatives: Items drawn per batch for the softmax, shared by its rows; all items where they
            are few (`compares_with_all`).
        popular_share: Share of them drawn by popularity in the training period; the others
            uniformly.
        blanked: Fraction of training windows whose inputs are masked. Their labels train the
            default vector for members with no actions.
        dismissed_weight: Weight of the loss that ranks positives above dismissed items.
        batch_size: Examples per step.
        learning_rate: Adam's.
        weight_decay: Adam's decoupled weight decay.
        temperature: Divides the scores before the softmax.
        epochs: Epochs at most.
        patience: Epochs without a better validation loss before training stops.
        validation: The last period before `trained_until`, kept for early stopping.
        refit: Whether to train again from the start on all examples, once `validation` has chosen
            the number of epochs: the newest examples say most about the next day.
        seed: Seed of the initial weights, the negatives and the order of examples.
    """

    objective: Literal["next_action", "next_item", "all_action"] = "next_item"
    examples: ExampleSettings = field(default_factory=ExampleSettings)
    negatives: int = 1024
    popular_share: float = 0.5
    blanked: float = 0.02
    dismissed_weight: float = 0.0
    batch_size: int = 512
    learning_rate: float = 0.001
    weight_decay: float = 0.0
    temperature: float = 1.0
    epochs: int = 20
    patience: int = 4
    validation: timedelta = timedelta(days=14)
    refit: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("negatives", 1), ("batch_size", 1), ("epochs", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("popular_share", "blanked"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("dismissed_weight", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.validation <= timedelta(0):
            raise InputError(f"validation: expected a time above zero, got {self.validation}")


def compares_with_all(items: int, negatives: int) -> bool:
    """Return whether a softmax is over all items: they are at most twice as many as are drawn.

    A sample of that many only estimates it, and costs half at best.

    >>> compares_with_all(2_000, negatives=1_024), compares_with_all(3_000, negatives=1_024)
    (True, False)
    """
    return items <= 2 * negatives
