"""Who is answered by which release: the pointer, and a share of the traffic for the next one.

A promotion with a share is an experiment: its control is the release that serves, its treatment the
new one, and a member has its arm by `operations/experiments/assignment.py`. It grows without moving
anybody who is in; giving the new one to all, or taking it back, ends it. Each of these moves is one
transaction of the ledger, in which the pointer and the experiment change together.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from operations.experiments.assignment import arms, said_of
from operations.experiments.records import Beside, Experiment, grow, start, stop, that_run
from operations.experiments.records import experiments as every_experiment
from operations.experiments.verdict import Guardrail, Verdict
from operations.ledger import Ledger, ledger_exists
from operations.releases import (
    Target,
    move,
    pointer,
    refuse_refused,
    serving,
    take_back,
)
from transformations.config import Config
from transformations.errors import InputError


@dataclass(frozen=True)
class Traffic:
    """Who is answered by which release, as of one look.

    Attributes:
        release: What serves all, save for the treatment; None before the first promotion.
        experiments: Those that run, also of something else than releases.
    """

    release: int | None = None
    experiments: tuple[Experiment, ...] = ()

    @property
    def shared(self) -> Experiment | None:
        """The experiment that a release is in; None where none has a share."""
        return next((one for one in self.experiments if one.release is not None), None)

    def of(self, member: int | str) -> tuple[int | None, str | None]:
        """Return the release that a member is answered by, and its arms, as impressions hold them.

        >>> new = Experiment(
        ...     "ranker", "4c1d", 0.1, "APPLY", (), 0.05, 2, 10_000, datetime(2026, 3, 1),
        ...     control="1", treatment="2",
        ... )
        >>> [Traffic(1, (new,)).of(member) for member in (7, 14, 42)]
        [(2, 'ranker:treatment'), (1, 'ranker:control'), (1, None)]
        """
        mine = arms((one.assignment for one in self.experiments), member)
        shared = self.shared
        is_treated = shared is not None and mine.get(shared.name) == "treatment"
        return shared.release if shared and is_treated else self.release, said_of(mine)


def traffic(config: Config, target: Target = "online") -> Traffic:
    """Return who is answered by which release now; lists have no experiments."""
    if not ledger_exists(config):
        return Traffic()
    return _look(Ledger(config).engine, target)


class Pointer:
    """What a target serves, read again and again at the cost of two small queries.

    It sees a promotion of any process as soon as that is committed.
    """

    def __init__(self, config: Config, target: Target = "online") -> None:
        Ledger(config)  # has the tables from here on, also if an older version made it
        file, self._target = config.layout.ledger, target
        # Read only: a ledger that was taken away is not made here again, as an empty one.
        self._engine = sa.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True),
            poolclass=sa.NullPool,
        )

    def traffic(self) -> Traffic:
        """Return who is answered by which release now."""
        return _look(self._engine, self._target)


def _look(engine: sa.Engine, target: Target) -> Traffic:
    with engine.connect() as connection:
        connection.exec_driver_sql("begin")  # so that no move comes between the two
        release = pointer(connection, target)
        running = that_run(connection) if target == "online" else ()
    return Traffic(release, tuple(running))


@dataclass(frozen=True)
class Terms:
    """What decides about a share; as `operations.experiments.records.Experiment` has it."""

    metric: str
    guardrails: Sequence[Guardrail]
    minimum_effect: float
    weeks: int
    planned: int


def promote_in_part(
    config: Config,
    number: int,
    share: float,
    terms: Terms,
    why: str | None = None,
    at: datetime | None = None,
    salt: str | None = None,
) -> Experiment:
    """Let a release answer a share of the members of the service, or a larger one than before.

    The pointers stay. Of one that has a share already, terms and salt are those that it began with.

    Args:
        share: Above 0, at most a half; as many members are the control.
        at: When it begins. Default: now.
        salt: Of the assignment. Default: drawn.

    Raises:
        InputError: nothing serves, or it does already; another release has a share; the share is
            not larger than before; a gate refused it, it is retired, or there is no such one.
    """
    refuse_refused(config, number)
    if not 0 < share <= 0.5:
        raise InputError(
            f"expected a share above 0 and at most 0.5, or 1 for all, got {share:g}: beyond a half "
            "members would change the arm when it grows"
        )
    control, running = serving(config), traffic(config).shared
    if control is None:
        raise InputError(
            f"nothing serves yet, so release {number} has nothing to share with; first: activity "
            f"release promote {number}"
        )
    if control == number:
        raise InputError(f"release {number} serves all already; activity release list")
    ledger = Ledger(config)
    if running is not None and running.release == number:
        return grow(ledger, running.name, share, _moving(number, share, why, control))
    _refuse_second(running)
    return start(
        ledger,
        _name(ledger, number),
        terms.metric,
        share,
        terms.minimum_effect,
        terms.guardrails,
        terms.weeks,
        terms.planned,
        str(control),
        str(number),
        at,
        salt,
        _moving(number, share, why, control),
    )


def end_share(
    config: Config, one: Experiment, verdict: Verdict, why: str, at: datetime | None = None
) -> Experiment:
    """Take back the release that has a share: what serves the others serves all.

    Args:
        at: When. Default: now.

    Raises:
        InputError: it has ended.
    """
    return stop(
        Ledger(config), one.name, verdict, why, at, lambda connection: take_back(connection, why)
    )


def _moving(number: int, share: float, why: str | None, control: int) -> Beside:
    """Return what notes the promotion beside the experiment, if nothing else moved meanwhile."""

    def note(connection: sa.Connection) -> None:
        others = [one for one in that_run(connection) if one.release not in (None, number)]
        _refuse_second(others[0] if others else None)
        now = pointer(connection, "online")
        if now != control:
            raise InputError(f"expected release {control} to serve, got {now}; look, and try again")
        move(connection, "online", number, why, share)

    return note


def _refuse_second(running: Experiment | None) -> None:
    if running is not None:
        raise InputError(
            f"release {running.release} has {running.share:.0%} of the members; only one release "
            f"has a share at a time: activity experiment status {running.name}, then activity "
            f"release promote {running.release}, or activity release rollback"
        )


def _name(ledger: Ledger, number: int) -> str:
    """Return a name that no experiment had: with it, members are assigned independently."""
    there = {one.name for one in every_experiment(ledger)}
    name, again = f"release_{number}", 1
    while name in there:
        again += 1
        name = f"release_{number}_{again}"
    return name
