"""What a line of RANKERS says, in plain Python: it is read without any library."""

import json
import re
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from transformations import names
from transformations.config import Config
from transformations.errors import InputError
from transformations.rules import Rules

Group = Literal["member_stats", "item_stats", "profile", "context", "history", "sources", "ids"]
GROUPS: tuple[Group, ...] = (
    "member_stats",
    "item_stats",
    "profile",
    "context",
    "history",
    "sources",
    "ids",
)
"""What a ranker may read beside vectors (models/rankers/inputs.py says what each holds)."""


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """One line of RANKERS: pairs of a member and an item in, one probability an action out.

    A subclass names its `kind`, and in `code` the class that is fitted, as "module:Class"; that is
    imported only when it is needed (contract: models/rankers/protocol.py).

    Attributes:
        name: Part of its name in files and answers.
        version: Part of both too. Raise it whenever the definition changes.
        aggregators: Whose vectors it reads, as "learned_decay_v2"; with each comes the item's
            vector of the same space, and how well the two match.
        reads: What else it reads.
        weights: How the probabilities of actions make the score that orders items: pairs of an
            action and its weight. Default: 1 for an action that may be positive, -1 for one that
            is negative.
        hard, easy: Negatives that are drawn per label from its candidates at the label's time, and
            from the items of its day.
        learns_from: `shown`: what the service showed, and what came of it; `actions`: actions, with
            drawn negatives; `either`: what was shown where enough came of it, else actions.
        days: Of labels that it learns from, the newest; none from before what it reads was fitted.
        labels: At most about that many, by a sample of members.
        fit: What the line became from data, counted from 1; `of_fit` sets it, no catalogue does.
    """

    kind: ClassVar[str]
    """The public name of what it computes; moving a file changes no name."""
    code: ClassVar[str]
    """Address of the class that is fitted."""
    scores_are_probabilities: ClassVar[bool] = True
    """Whether its scores are the heads' probabilities by their weights, and not only an order."""
    goes_on: ClassVar[bool] = False
    """Whether a fit may begin with the weights of another: it has `go_on` (protocol.py)."""

    name: str
    version: int
    aggregators: tuple[str, ...] = ()
    reads: tuple[Group, ...] = ("member_stats", "item_stats", "profile", "context", "history",
                                "sources")  # fmt: skip
    weights: tuple[tuple[str, float], ...] = ()
    hard: int = 8
    easy: int = 8
    learns_from: Literal["shown", "actions", "either"] = "either"
    days: int = 28
    labels: int = 50_000
    fit: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(
                f"expected a ranker's name of lower-case letters, digits and _, got {self.name!r}; "
                "it becomes part of file names"
            )
        self._expect("version", self.version >= 1, "1 or more")
        unknown = sorted(set(self.reads) - {*GROUPS})
        self._expect("reads", not unknown, f"some of {', '.join(GROUPS)}")
        for setting in ("aggregators", "reads"):
            value = getattr(self, setting)
            self._expect(setting, len({*value}) == len(value), "each once")
        self._expect("hard", self.hard >= 0, "0 or more")
        self._expect("easy", self.easy >= 0, "0 or more")
        self._expect("easy", self.hard + self.easy > 0, "1 or more where hard is 0")
        sources = ("shown", "actions", "either")
        self._expect("learns_from", self.learns_from in sources, f"one of {', '.join(sources)}")
        self._expect("days", self.days >= 1, "at least 1")
        self._expect("labels", self.labels >= 1, "at least 1")

    def __str__(self) -> str:
        return names.fitted(self.name, self.version, self.fit)

    def parameters(self) -> dict[str, Any]:
        """Return all settings that a fit depends on, as JSON values."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        settings = {k: v for k, v in own.items() if k not in ("name", "version", "fit")}
        return dict(json.loads(json.dumps(settings)))

    def folder(self, config: Config) -> Path:
        """Folder of this ranker's package."""
        return config.layout.ranker(self.name, self.version, self.fit)

    def fitted_class(self) -> Any:
        """Return the class that is fitted for it (models/rankers/protocol.py), with its imports."""
        module, _, name = self.code.partition(":")
        return getattr(import_module(module), name)

    def of_fit(self, fit: int) -> Self:
        """Return the line as one of its fits."""
        made = replace(self)
        object.__setattr__(made, "fit", fit)
        return made

    def heads(self, rules: Rules) -> dict[str, float]:
        """Return the actions that it predicts, each with its weight in the score.

        Raises:
            InputError: a weight of an action that the rules do not have.
        """
        known = {name: action for name, action in rules.actions.items() if not action.text}
        if self.weights:
            given = dict(self.weights)
            self._expect("weights", given.keys() <= known.keys(), f"some of {', '.join(known)}")
            return given
        return {
            name: 1.0 if action.can_be_positive else -1.0
            for name, action in known.items()
            if action.can_be_positive or action.sign == "negative" or action.negative_if
        }

    def _expect(self, setting: str, right: bool, expected: str) -> None:
        if not right:
            raise InputError(
                f"{self.name}: {setting}: expected {expected}, got {getattr(self, setting)!r}"
            )
