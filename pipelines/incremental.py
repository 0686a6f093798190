"""Fits that go on from others: the parent is opened, and where it cannot be, the fit is full.

`operations.incremental` says where a fit is to begin, by the ledger. Here that is held against what
lies there: a parent that is gone, damaged, made with other settings or of later data makes a full
fit of it. Every time what was chosen, and why, is said, noted in the ledger and in the manifest.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from models.lines import encoder_of
from models.rankers.package import load as load_ranker
from models.rankers.protocol import Continuing
from models.rankers.reading import Vectors
from models.rankers.spec import Ranker
from models.spec import Aggregator, Learned
from operations.fits import LINE, SPACE, Key
from operations.incremental import Start, Starts
from operations.rankers import RANKER
from pipelines.progress import Stages
from pipelines.terminal import escape
from transformations import names
from transformations.config import Config
from transformations.errors import InputError, RunFailedError

if TYPE_CHECKING:
    from models.items.protocol import GoesOn
    from models.training.before import Before

Parent = TypeVar("Parent")


@dataclass(frozen=True)
class Begun(Generic[Parent]):
    """Where a fit begins.

    Attributes:
        start: What was chosen; None where the line is not asked to go on.
        parent: What it goes on from; None of a full fit.
        since: An incremental fit learns from what happened since then.
    """

    key: Key
    start: Start | None = None
    parent: Parent | None = None
    since: datetime | None = None

    def notes(self) -> dict[str, Any]:
        """Return what the manifest keeps, as JSON values."""
        if self.start is None:
            return {}
        notes: dict[str, Any] = {"start": str(self.start)}
        if self.start.parent is not None and self.since is not None:
            notes |= {
                "parent": names.fitted(*self.key[1:3], self.start.parent),
                "since_full": self.start.since_full,
                "learns_since": self.since.isoformat(),
            }
        return notes

    def in_full(self, why: str) -> "Begun[Parent]":
        """Return it as a full fit."""
        return Begun(self.key, Start(None, why=why))


def begin_ranker(
    config: Config, line: Ranker, reads: Sequence[Vectors], until: datetime
) -> Begun[Any]:
    """Return where a ranker's fit begins; its parent is a `Continuing`.

    Args:
        line: As the fit that is to be made.
        reads: The vectors that it reads.
    """
    starts = Starts(config)
    key = (RANKER, line.name, line.version, line.fit)

    def opened(number: int) -> tuple[Continuing, datetime]:
        loaded = load_ranker(config, line.of_fit(number))
        if loaded.heads != line.heads(config.rules):
            raise InputError(f"it predicts {loaded.heads}, now {line.heads(config.rules)}")
        columns = {}
        for one in reads:
            before = loaded.manifest["fits"].get(one.line)
            if before is None:
                raise InputError(f"it did not read {one.line}")
            if starts.root_of_view(before["view"]) != starts.root_of_view(one.view):
                raise InputError(
                    f"it reads {one.view}, which has other coordinates than {before['view']}"
                )
            columns[replace(one, space=before["space"]).item] = one.item
        parent: Any = loaded.fitted
        return parent.reading(columns), datetime.fromisoformat(loaded.manifest["trained_until"])

    return _begun(config, key, starts.of_ranker(line), opened, until)


def begin_line(config: Config, line: Learned, until: datetime) -> "Begun[Before]":
    """Return where a learned aggregator's fit begins.

    Args:
        config: In the line's space, which is made.
        line: As the fit that is to be made.
    """
    from models.training.before import before_of  # TensorFlow

    starts = Starts(config)
    start = starts.of_line(line, config.space)

    def opened(number: int) -> "tuple[Before, datetime]":
        space = starts.space_of(line, number)
        before = line.of_fit(number, space)
        return before_of(before, config.in_space(space))

    return _begun(config, (LINE, line.name, line.version, line.fit), start, opened, until)


def begin_space(config: Config, until: datetime) -> "Begun[GoesOn]":
    """Return where the fit of the configuration's space begins."""
    from models.items.saved import differences, fitted_until, saved  # scikit-learn

    space = config.space
    key = (SPACE, space.encoder, space.version, space.fit)
    line = encoder_of(config, space)
    if line is None:
        return Begun(key)

    def opened(number: int) -> "tuple[GoesOn, datetime]":
        before = config.in_space(line.in_fit(number))
        encoder, seen = saved(before), fitted_until(before)
        if seen is None:
            raise InputError("it is gone")
        if encoder is None:
            raise InputError("it has other settings:\n" + "\n".join(differences(before)))
        parent: Any = encoder
        return parent, seen

    return _begun(config, key, Starts(config).of_space(line), opened, until)


def note_followers(config: Config, lines: Iterable[Aggregator]) -> None:
    """Note of lines without a training that is theirs that they go on where their space does."""
    starts = Starts(config)
    for line in lines:
        if not isinstance(line, Learned) or starts.lines.trained_with(line) is not None:
            start = starts.of_line(line, line.config_of(config).space)
            starts.note((LINE, line.name, line.version, line.fit), start)


def note(config: Config, begun: Begun[Any], stages: Stages) -> None:
    """Note in the ledger where a fit begins, and say it."""
    Starts(config).note(begun.key, begun.start)
    if begun.start is not None:
        said = f"{names.fitted(*begun.key[1:])}: {begun.start}"
        if begun.start.parent is not None and begun.since is not None:
            parent = names.fitted(*begun.key[1:3], begun.start.parent)
            said += f", from {parent}, on what happened since {begun.since:%Y-%m-%d %H:%M} UTC"
        stages.console.print(f"[dim]•[/] {escape(said)}", highlight=False, soft_wrap=True)


def _begun(
    config: Config,
    key: Key,
    start: Start | None,
    opened: Callable[[int], tuple[Parent, datetime]],
    until: datetime,
) -> Begun[Parent]:
    """Open the parent; where that cannot be, begin in full."""
    if start is None or start.parent is None:
        return Begun(key, start)
    name = names.fitted(*key[1:3], start.parent)
    begun: Begun[Parent] = Begun(key, start)
    try:
        parent, seen = opened(start.parent)
    except (InputError, RunFailedError, OSError, KeyError, ValueError) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        return begun.in_full(f"{name} cannot be gone on from: {first}")
    if seen > until:
        return begun.in_full(f"{name} has seen what came after {until:%Y-%m-%d %H:%M} UTC")
    return Begun(key, start, parent, min(until - config.train.buffer, seen))


def days_of(begun: Begun[Any], until: datetime, most: int) -> int:
    """Return of how many days before `until` a ranker's labels are, at most `most`."""
    if begun.since is None:
        return most
    return min(most, max(1, -(-(until - begun.since) // timedelta(days=1))))
