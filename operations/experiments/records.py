"""Which experiments ran and run: a table of the ledger."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from operations.experiments.intervals import ALPHA
from operations.experiments.verdict import Guardrail, Verdict
from operations.ledger import METADATA, Ledger, now_text
from transformations import clock
from transformations.errors import InputError

EXPERIMENTS = sa.Table(
    "experiment",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("salt", sa.String, nullable=False),
    sa.Column("unit", sa.String, nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    # The releases of the arms; null where the arms differ in something else.
    sa.Column("control", sa.String),
    sa.Column("treatment", sa.String),
    sa.Column("metric", sa.String, nullable=False),
    sa.Column("guardrails", sa.JSON, nullable=False),
    sa.Column("minimum_effect", sa.Float, nullable=False),
    sa.Column("weeks", sa.Integer, nullable=False),
    sa.Column("planned", sa.Integer, nullable=False),
    sa.Column("alpha", sa.Float, nullable=False),
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
    sa.Column("verdict", sa.String),
    # Why it was ended.
    sa.Column("why", sa.String),
)


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        salt: Of the assignment: another one, other arms.
        share: Of the treatment, above 0 and below 1; the control is as large, or what is left.
        metric: The primary metric's text.
        minimum_effect: The lift of it that is worth the cost.
        weeks: Whole ones, before which nothing but harm ends it.
        planned: Members of both arms at which the interval is narrowest.
        alpha: The probability of a wrong end, at all looks and of all metrics together.
        control, treatment: Numbers of releases; None where the arms differ in something else.
        verdict: What was said when it was read last.
    """

    name: str
    salt: str
    share: float
    metric: str
    guardrails: tuple[Guardrail, ...]
    minimum_effect: float
    weeks: int
    planned: int
    started_at: datetime
    alpha: float = ALPHA
    control: str | None = None
    treatment: str | None = None
    ended_at: datetime | None = None
    verdict: str | None = None
    why: str | None = None
    unit: str = "member"

    @property
    def is_running(self) -> bool:
        """Whether members are assigned by it."""
        return self.ended_at is None

    @property
    def release(self) -> int | None:
        """The release that its treatment is; None where the arms differ in something else."""
        return None if self.treatment is None else int(self.treatment)

    @property
    def assignment(self) -> tuple[str, str, float]:
        """Name, salt and share, as `arms_of` takes them."""
        return self.name, self.salt, self.share


Beside = Callable[[sa.Connection], object]


def _nothing(_: sa.Connection) -> None:
    """Write nothing more."""


def start(
    ledger: Ledger,
    name: str,
    metric: str,
    share: float,
    minimum_effect: float,
    guardrails: Sequence[Guardrail] = (),
    weeks: int = 2,
    planned: int = 10_000,
    control: str | None = None,
    treatment: str | None = None,
    at: datetime | None = None,
    salt: str | None = None,
    beside: Beside = _nothing,
) -> Experiment:
    """Note an experiment that begins now; its salt is drawn.

    Args:
        at: When it began, of one that another service runs.
        salt: That of such a service.
        beside: Writes more in the same transaction, or raises: then nothing is noted.

    Raises:
        InputError: one of that name was there, or a number cannot be.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise InputError(f"expected a name of a-z, 0-9, _ and -, a letter first, got {name!r}")
    if not 0 < share < 1:
        raise InputError(f"expected a share above 0 and below 1, got {share:g}; others: control")
    if minimum_effect <= 0:
        raise InputError(f"expected a minimum effect above 0, as 0.02, got {minimum_effect:g}")
    if weeks < 1 or planned < 1:
        raise InputError(f"expected at least 1 week and 1 member, got {weeks} and {planned}")
    if salt is not None and not re.fullmatch(r"[^/\s]+", salt):
        raise InputError(f"expected a salt without / and blanks, got {salt!r}")
    if any(one.name == name for one in experiments(ledger)):
        raise InputError(
            f"there is an experiment {name} already; another name assigns members independently"
        )
    made = Experiment(
        name,
        salt or secrets.token_hex(8),
        share,
        metric,
        tuple(guardrails),
        minimum_effect,
        weeks,
        planned,
        at or clock.now(),
        control=control,
        treatment=treatment,
    )
    with ledger.engine.begin() as connection:
        connection.execute(sa.insert(EXPERIMENTS), _row(made))
        beside(connection)
    return made


def grow(ledger: Ledger, name: str, share: float, beside: Beside = _nothing) -> Experiment:
    """Give the treatment a larger share: members come in from outside, and nobody changes the arm.

    Args:
        beside: As `start` takes it.

    Raises:
        InputError: none of that name runs, it is not larger, or members would change the arm.
    """
    one = running(ledger, name)
    if share <= one.share:
        raise InputError(
            f"expected a share above {one.share:g}, got {share:g}: a smaller one would take "
            "members out of their arm; stop the experiment instead"
        )
    if share > 0.5:
        raise InputError(
            f"expected a share of at most 0.5, got {share:g}: beyond it members of the control "
            "would change the arm; stop the experiment, then let all have it"
        )
    with ledger.engine.begin() as connection:
        here = EXPERIMENTS.c.name == name
        connection.execute(sa.update(EXPERIMENTS).where(here).values(share=share))
        beside(connection)
    return experiment(ledger, name)


def note_said(ledger: Ledger, name: str, verdict: Verdict) -> None:
    """Note what an experiment that runs said when it was read."""
    with ledger.engine.begin() as connection:
        here = sa.and_(EXPERIMENTS.c.name == name, EXPERIMENTS.c.ended_at.is_(None))
        connection.execute(sa.update(EXPERIMENTS).where(here).values(verdict=str(verdict)))


def stop(
    ledger: Ledger,
    name: str,
    verdict: Verdict | None,
    why: str,
    at: datetime | None = None,
    beside: Beside = _nothing,
) -> Experiment:
    """Note that an experiment ends, what it said, and why it was ended.

    Args:
        at: When. Default: now.
        beside: As `start` takes it.

    Raises:
        InputError: none of that name runs, or there is no reason.
    """
    running(ledger, name)
    if not why.strip():
        raise InputError("--why: expected the reason in a few words, got nothing")
    values = {"ended_at": _text(at or clock.now()), "why": why}
    if verdict is not None:
        values["verdict"] = str(verdict)
    with ledger.engine.begin() as connection:
        here = EXPERIMENTS.c.name == name
        connection.execute(sa.update(EXPERIMENTS).where(here).values(**values))
        beside(connection)
    return experiment(ledger, name)


def end_shared(connection: sa.Connection, why: str) -> None:
    """End the experiment that a release is in, where one runs, in a transaction of the caller's."""
    runs = sa.and_(EXPERIMENTS.c.ended_at.is_(None), EXPERIMENTS.c.treatment.is_not(None))
    connection.execute(sa.update(EXPERIMENTS).where(runs).values(ended_at=now_text(), why=why))


def that_run(connection: sa.Connection) -> list[Experiment]:
    """Return the experiments that have not ended, the oldest first."""
    query = sa.select(EXPERIMENTS).where(EXPERIMENTS.c.ended_at.is_(None))
    ordered = query.order_by(EXPERIMENTS.c.started_at, EXPERIMENTS.c.name)
    return [_experiment(dict(row)) for row in connection.execute(ordered).mappings()]


def experiments(ledger: Ledger) -> list[Experiment]:
    """Return all experiments, the newest first."""
    query = sa.select(EXPERIMENTS).order_by(EXPERIMENTS.c.started_at.desc(), EXPERIMENTS.c.name)
    with ledger.engine.connect() as connection:
        return [_experiment(dict(row)) for row in connection.execute(query).mappings()]


def experiment(ledger: Ledger, name: str) -> Experiment:
    """Return the experiment of a name.

    Raises:
        InputError: there is none.
    """
    there = experiments(ledger)
    for one in there:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in there) or "none"
    raise InputError(f"expected the name of an experiment ({names}), got {name!r}")


def running(ledger: Ledger, name: str) -> Experiment:
    """Return the experiment of a name, which has not ended.

    Raises:
        InputError: there is none, or it has ended.
    """
    one = experiment(ledger, name)
    if one.ended_at is not None:
        raise InputError(f"the experiment {name} ended on {one.ended_at:%Y-%m-%d}: {one.why}")
    return one


def _row(one: Experiment) -> dict[str, Any]:
    row = {column.name: getattr(one, column.name) for column in EXPERIMENTS.columns}
    row["guardrails"] = [vars(guardrail) for guardrail in one.guardrails]
    row["started_at"] = _text(one.started_at)
    return row


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _experiment(row: dict[str, Any]) -> Experiment:
    row["guardrails"] = tuple(map(Guardrail.from_json, row["guardrails"]))
    for name in ("started_at", "ended_at"):
        row[name] = row[name] and datetime.fromisoformat(row[name])
    return Experiment(**row)
