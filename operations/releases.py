"""Releases: which fits serve together, which release serves, and what served before it.

A release is a set of fits that were made and published together. A target (the online service, the
lists that a run makes) serves the release that its pointer names: its last promotion to all. Moving
it is one transaction of the ledger; what answers reads the pointer, and never the newest fit.
"""

from collections.abc import Collection, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from operations.experiments.records import EXPERIMENTS, end_shared, that_run
from operations.fits import Key
from operations.ledger import METADATA, Ledger, ledger_exists, now_text
from transformations import names
from transformations.config import Config
from transformations.errors import InputError

Target = Literal["online", "batch"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""What serves: the service, and the lists that a run makes before anybody asks."""
PUBLISHED = 2
"""The newest releases, which go on being published whether they serve or not."""

RELEASES = sa.Table(
    "release",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("made_at", sa.String, nullable=False),
    sa.Column("fitted_until", sa.String),
    # What the gates said: {"passed": bool, "why": text, …}; null where none has judged.
    sa.Column("gates", sa.JSON(none_as_null=True)),
    sa.Column("retired_at", sa.String),
    sa.Column("pinned_at", sa.String),
    sa.Column("pinned_why", sa.String),
)
RELEASE_FITS = sa.Table(
    "release_fit",
    METADATA,
    sa.Column("release", sa.Integer, sa.ForeignKey("release.number"), primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("fit", sa.Integer, primary_key=True),
)
PROMOTIONS = sa.Table(
    "promotion",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("release", sa.Integer, sa.ForeignKey("release.number"), nullable=False),
    # Of the traffic; below 1 it moves no pointer.
    sa.Column("share", sa.Float, nullable=False, server_default="1"),
    sa.Column("is_rollback", sa.Boolean, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("why", sa.String),
)


@dataclass(frozen=True)
class Release:
    """Fits that serve together.

    Attributes:
        fitted_until: The moment that any of them saw last; None if none saw anything.
        gates: What the gates said; None where none has judged.
        fits: Kind, name, version and fit of each. Of a line with two fits the newest answers; the
            other is there because a ranker reads its vectors.
    """

    number: int
    made_at: datetime
    fitted_until: datetime | None
    gates: dict[str, Any] | None
    retired_at: datetime | None
    pinned_at: datetime | None
    pinned_why: str | None
    fits: Set[Key] = field(repr=False)

    def __str__(self) -> str:
        return f"release {self.number}"

    @property
    def refused(self) -> str:
        """Why it may not serve; empty where it may: here a gate's verdict decides."""
        if self.gates is None or self.gates.get("passed"):
            return ""
        return str(self.gates.get("why") or "its gates did not pass")

    @property
    def passed(self) -> bool:
        """Whether every gate let it, and none waits for more to judge by."""
        return bool(self.gates and self.gates.get("passed") and not self.gates.get("waits"))

    def fails(self, gate: str) -> bool:
        """Whether this gate is one that refused it."""
        if self.gates is None or self.gates.get("passed"):
            return False
        return any(
            one["gate"] == gate and one["passed"] is False for one in self.gates.get("gates", ())
        )

    @property
    def is_living(self) -> bool:
        """Whether its fits go on being published."""
        return self.retired_at is None

    def named(self, kind: str) -> list[str]:
        """Return the names of its fits of a kind, as decay_v1_f2, in order."""
        return [names.fitted(*key[1:]) for key in sorted(self.fits) if key[0] == kind]


def releases(config: Config) -> list[Release]:
    """Return every release, the newest first."""
    if not ledger_exists(config):
        return []
    with Ledger(config).engine.connect() as connection:
        of: dict[int, set[Key]] = {}
        for row in connection.execute(sa.select(RELEASE_FITS)):
            of.setdefault(row.release, set()).add((row.kind, row.name, row.version, row.fit))
        found = connection.execute(sa.select(RELEASES).order_by(RELEASES.c.number.desc())).all()
    return [
        Release(
            row.number,
            datetime.fromisoformat(row.made_at),
            _time(row.fitted_until),
            row.gates,
            _time(row.retired_at),
            _time(row.pinned_at),
            row.pinned_why,
            of.get(row.number, set()),
        )
        for row in found
    ]


def release_of(config: Config, number: int) -> Release:
    """Return a release.

    Raises:
        InputError: there is no such one.
    """
    every = releases(config)
    for release in every:
        if release.number == number:
            return release
    there = ", ".join(str(release.number) for release in every) or "none, activity run makes one"
    raise InputError(f"expected the number of a release ({there}), got {number}")


def serving(config: Config, target: Target = "online") -> int | None:
    """Return the number of the release that a target serves; None before the first promotion."""
    if not ledger_exists(config):
        return None
    with Ledger(config).engine.connect() as connection:
        return pointer(connection, target)


def promote(
    config: Config,
    number: int,
    why: str | None = None,
    targets: Collection[Target] = TARGETS,
) -> None:
    """Let a release serve: its targets' pointers name it from here on, all of them together.

    Where a release has a share of the service's traffic (operations/traffic.py), that ends with it.

    Raises:
        InputError: there is no such release, it is retired, or a gate refused it.
    """
    refuse_refused(config, number)
    with Ledger(config).engine.begin() as connection:
        for target in targets:
            move(connection, target, number, why)
        if "online" in targets:
            end_shared(connection, why or f"release {number} serves all")


def refuse_refused(config: Config, number: int) -> None:
    """Raise InputError where a gate refused a release, or there is no such one."""
    release = release_of(config, number)
    if release.refused:
        raise InputError(f"{release} may not serve: {release.refused}")


def rollback(
    config: Config, why: str | None = None, targets: Collection[Target] = TARGETS
) -> dict[Target, int]:
    """Take back the last promotion: let the release serve that served before; again, one further.

    A share of the traffic is what was promoted last: then it ends, and what serves the others
    serves all; the lists, which it is not in, stay.

    Returns target → the release that it serves now; without those that served nothing before.

    Raises:
        InputError: nothing that is not retired served before, on any of the targets.
    """
    moved: dict[Target, int] = {}
    with Ledger(config).engine.begin() as connection:
        # The first write locks the ledger: what is read below stands until the end.
        connection.execute(sa.update(RELEASES).where(sa.false()).values(pinned_why=None))
        if "online" in targets and _shared(connection) is not None:
            return {"online": take_back(connection, why)}
        for target in targets:
            before = _before(connection, target)
            if before is not None:
                move(connection, target, before, why, is_rollback=True)
                moved[target] = before
    if not moved:
        now = {serving(config, target) for target in targets} - {None}
        raise InputError(
            f"expected a release that served before {', '.join(map(str, now)) or 'any'} and is not "
            "retired, found none. activity release list shows what there is; activity release "
            "promote N lets one serve"
        )
    return moved


def take_back(connection: sa.Connection, why: str | None) -> int:
    """Let what serves serve all: the release that has a share of the traffic loses it."""
    now = pointer(connection, "online")
    assert now is not None  # there is no share before something serves
    move(connection, "online", now, why, is_rollback=True)
    end_shared(connection, why or "it was taken back")
    return now


def move(
    connection: sa.Connection,
    target: Target,
    number: int,
    why: str | None,
    share: float = 1.0,
    is_rollback: bool = False,
) -> None:
    """Note a promotion, in a transaction of the caller's.

    Raises:
        InputError: the release is retired.
    """
    # One statement, so that none is promoted that is being retired meanwhile.
    values = (sa.literal(x) for x in (target, number, share, is_rollback, now_text(), why))
    living = sa.exists().where(RELEASES.c.number == number, RELEASES.c.retired_at.is_(None))
    into = ["target", "release", "share", "is_rollback", "at", "why"]
    moved = connection.execute(
        sa.insert(PROMOTIONS).from_select(into, sa.select(*values).where(living))
    )
    if moved.rowcount != 1:
        raise InputError(
            f"release {number} is retired: its fits are not published any more, so it cannot serve"
        )


def _shared(connection: sa.Connection) -> int | None:
    """Return the release that has a share of the traffic; None where none has."""
    return next((n for one in that_run(connection) if (n := one.release) is not None), None)


def pointer(connection: sa.Connection, target: Target) -> int | None:
    """Return the release that a target serves; None before the first promotion."""
    query = sa.select(PROMOTIONS.c.release).where(PROMOTIONS.c.target == target)
    whole = query.where(PROMOTIONS.c.share >= 1).order_by(PROMOTIONS.c.id.desc()).limit(1)
    number = connection.execute(whole).scalar()
    return None if number is None else int(number)


def _before(connection: sa.Connection, target: Target) -> int | None:
    """Return the release that a rollback goes to: what served before, and is not retired."""
    query = sa.select(PROMOTIONS.c.release, PROMOTIONS.c.is_rollback).where(
        PROMOTIONS.c.target == target, PROMOTIONS.c.share >= 1
    )
    served: list[int] = []
    for number, is_rollback in connection.execute(query.order_by(PROMOTIONS.c.id)).all():
        if is_rollback:
            while served and served[-1] != number:
                served.pop()
        elif not served or served[-1] != number:
            served.append(number)
    retired = sa.select(RELEASES.c.number).where(RELEASES.c.retired_at.is_not(None))
    gone = set(connection.execute(retired).scalars())
    return next((n for n in served[-2::-1] if n not in gone and n != served[-1]), None)


def history(config: Config) -> list[dict[str, Any]]:
    """Return every promotion and rollback, the newest first, with the columns of the table."""
    if not ledger_exists(config):
        return []
    with Ledger(config).engine.connect() as connection:
        rows = connection.execute(sa.select(PROMOTIONS).order_by(PROMOTIONS.c.id.desc()))
        return [dict(row) for row in rows.mappings()]


def standby(config: Config, target: Target = "online") -> list[int]:
    """Return the releases that a target may serve next, without the one that serves.

    They are the newest ones, what has a share of the traffic, and what a rollback goes to.
    """
    if not ledger_exists(config):
        return []
    with Ledger(config).engine.connect() as connection:
        now, before = pointer(connection, target), _before(connection, target)
        shared = _shared(connection)
        living = sa.select(RELEASES.c.number).where(RELEASES.c.retired_at.is_(None))
        newest = connection.execute(living.order_by(RELEASES.c.number.desc()).limit(PUBLISHED))
        found = dict.fromkeys([*newest.scalars(), shared, before])
    return [number for number in found if number not in (now, None)]


def to_retire(config: Config) -> list[int]:
    """Return the releases whose time is over, the oldest first.

    They are older than the newest PUBLISHED, no target serves them or would roll back to them, and
    nobody pinned them.
    """
    living = [one for one in releases(config) if one.is_living]
    kept = {one.number for one in living[:PUBLISHED]} | _in_use(config)
    return sorted(
        one.number for one in living[PUBLISHED:] if not one.pinned_at and one.number not in kept
    )


def _in_use(config: Config) -> set[int]:
    """Return what the targets serve, whole or in part, and what they would roll back to."""
    with Ledger(config).engine.connect() as connection:
        found = {_shared(connection)}
        for target in TARGETS:
            found |= {pointer(connection, target), _before(connection, target)}
    return {number for number in found if number is not None}


def retire(config: Config, number: int) -> None:
    """Note that a release serves no more: no promotion names it from here on.

    Its fits stay until `pipelines.retiring` takes down those that no other release names.

    Raises:
        InputError: a target serves it, somebody pinned it, or there is no such one.
    """
    refuse_retiring(config, number)
    newest = (
        sa.select(sa.func.max(PROMOTIONS.c.id))
        .where(PROMOTIONS.c.share >= 1)
        .group_by(PROMOTIONS.c.target)
    )
    serving_now = sa.select(PROMOTIONS.c.release).where(PROMOTIONS.c.id.in_(newest))
    shared = sa.select(sa.cast(EXPERIMENTS.c.treatment, sa.Integer)).where(
        EXPERIMENTS.c.treatment.is_not(None), EXPERIMENTS.c.ended_at.is_(None)
    )
    idle = sa.and_(
        RELEASES.c.number == number,
        RELEASES.c.pinned_at.is_(None),
        RELEASES.c.number.not_in(serving_now),
        RELEASES.c.number.not_in(shared),
    )
    first = sa.func.coalesce(RELEASES.c.retired_at, now_text())
    with Ledger(config).engine.begin() as connection:
        # One statement, so that none retires that is being promoted meanwhile.
        if not connection.execute(
            sa.update(RELEASES).where(idle).values(retired_at=first)
        ).rowcount:
            raise InputError(
                f"release {number} serves; first let another one serve: activity release "
                "rollback, or activity release promote N"
            )


def refuse_retiring(config: Config, number: int, about: str = "") -> None:
    """Raise InputError where a release serves or is pinned, or there is no such one.

    Args:
        about: Begins what is said.
    """
    release = release_of(config, number)
    if release.pinned_at is not None:
        raise InputError(
            f"{about}{release} is pinned ({release.pinned_why}); first: activity release unpin "
            f"{number}"
        )
    with Ledger(config).engine.connect() as connection:
        in_use = {_shared(connection), *(pointer(connection, target) for target in TARGETS)}
    if number in in_use:
        raise InputError(
            f"{about}{release} serves; first let another one serve: activity release rollback, or "
            "activity release promote N"
        )


def pin(config: Config, number: int, why: str) -> None:
    """Keep a release published until it is unpinned, as for a ranker elsewhere that reads its fits.

    Raises:
        InputError: it is retired already, or there is no such one.
    """
    if release_of(config, number).retired_at is not None:
        raise InputError(f"release {number} is retired: its fits are not published any more")
    _set(config, number, pinned_at=now_text(), pinned_why=why)


def unpin(config: Config, number: int) -> None:
    """Let a release retire again.

    Raises:
        InputError: there is no such one.
    """
    release_of(config, number)
    _set(config, number, pinned_at=None, pinned_why=None)


def note_gates(config: Config, number: int, said: dict[str, Any]) -> None:
    """Note what the gates said of a release: `passed`, `why` where it did not, and more."""
    release_of(config, number)
    _set(config, number, gates=said)


def _set(config: Config, number: int, **values: Any) -> None:
    with Ledger(config).engine.begin() as connection:
        connection.execute(sa.update(RELEASES).where(RELEASES.c.number == number).values(**values))


def _time(text: str | None) -> datetime | None:
    return None if not text else datetime.fromisoformat(text)
