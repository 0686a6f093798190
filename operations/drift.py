"""What drift stops, in the ledger: a measure beyond its bound pauses fitting until it is looked at.

A stop stands as long as the newest snapshot has one that nobody accepted. What was accepted stays
so until the measure is normal again. When a measure is beyond its bound: operations/drift_rule.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from operations.drift_rule import KINDS, Finding, effects
from operations.ledger import METADATA, Ledger, now_text
from transformations.errors import InputError

DRIFT = sa.Table(
    "drift",
    METADATA,
    sa.Column("as_of", sa.String, primary_key=True),
    sa.Column("about", sa.String, primary_key=True),
    sa.Column("measure", sa.String, primary_key=True),
    sa.Column("part", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("n_rows", sa.Integer, nullable=False),
    # Null where there is too little to compare with; a bound that cannot be reached is null too.
    sa.Column("baseline", sa.Float),
    sa.Column("warn_low", sa.Float),
    sa.Column("warn_high", sa.Float),
    sa.Column("stop_low", sa.Float),
    sa.Column("stop_high", sa.Float),
    sa.Column("verdict", sa.String, nullable=False),
    # Why a person let it go on; when it was alerted.
    sa.Column("accepted", sa.String),
    sa.Column("alerted_at", sa.String),
)


def noted_before(
    ledger: Ledger, as_of: datetime, days: int
) -> dict[tuple[str, str, str], dict[int, float]]:
    """Return what the ledger knows of the days before: key → value by how many days before."""
    since = _key(as_of - timedelta(days=days))
    between = sa.and_(DRIFT.c.as_of >= since, DRIFT.c.as_of < _key(as_of))
    rows = _rows(ledger, sa.select(DRIFT).where(between))
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        back = max(round((as_of - datetime.fromisoformat(row["as_of"])) / timedelta(days=1)), 1)
        key = (row["about"], row["measure"], row["part"])
        found.setdefault(key, {})[back] = row["value"]
    return found


def note(ledger: Ledger, as_of: datetime, about: str, findings: Sequence[Finding]) -> list[Finding]:
    """Write what was found of one snapshot in place of what was found before; return it.

    What was accepted or alerted of a measure stays so while it is neither normal nor as far from
    its last value as a stop is from what is expected.
    """
    known = {
        (row["measure"], row["part"]): row
        for at in (_newest(ledger, as_of, about), _key(as_of))
        for row in _rows(
            ledger, sa.select(DRIFT).where(DRIFT.c.as_of == at, DRIFT.c.about == about)
        )
    }
    kept = []
    for found in findings:
        row = known.get((found.measure, found.part))
        if row is not None and found.verdict in ("warning", "stop") and not _is_other(row, found):
            found = replace(found, accepted=row["accepted"], alerted_at=row["alerted_at"])
        kept.append(replace(found, as_of=as_of))
    with ledger.engine.begin() as connection:
        here = sa.and_(DRIFT.c.as_of == _key(as_of), DRIFT.c.about == about)
        connection.execute(sa.delete(DRIFT).where(here))
        if kept:
            connection.execute(sa.insert(DRIFT), [_row(as_of, found) for found in kept])
    return kept


def _is_other(row: Mapping[str, Any], found: Finding) -> bool:
    """Whether a measure has moved on so far that it is another fault."""
    kind, (_, least) = KINDS[found.kind], effects(found)
    return abs(kind.score(row["value"]) - kind.score(found.value)) > least


def findings(ledger: Ledger, as_of: datetime | None = None) -> list[Finding]:
    """Return what was found of the newest snapshot, or of another; the worst first."""
    at = _newest(ledger) if as_of is None else _key(as_of)
    found = [_finding(row) for row in _rows(ledger, sa.select(DRIFT).where(DRIFT.c.as_of == at))]
    order = ("stop", "warning", "unknown", "ok")
    return sorted(found, key=lambda one: (not one.stops, order.index(one.verdict), one.key))


def carried(ledger: Ledger, as_of: datetime, about: str) -> list[Finding]:
    """Return the stops of a group that no snapshot makes normal again, until somebody accepts them.

    They are those of the newest snapshot by `as_of` of which it was noted.
    """
    by = sa.and_(DRIFT.c.about == about, DRIFT.c.as_of <= _key(as_of))
    newest = sa.select(sa.func.max(DRIFT.c.as_of)).where(by).scalar_subquery()
    here = sa.and_(DRIFT.c.about == about, DRIFT.c.as_of == newest)
    return [
        found
        for row in _rows(ledger, sa.select(DRIFT).where(here))
        if (found := _finding(row)).stops
    ]


def history(ledger: Ledger, days: int) -> list[Finding]:
    """Return what was found of the snapshots of the last days before the newest, oldest first."""
    newest = _newest(ledger)
    if newest is None:
        return []
    since = _key(datetime.fromisoformat(newest) - timedelta(days=days))
    query = sa.select(DRIFT).where(DRIFT.c.as_of >= since).order_by(DRIFT.c.as_of)
    return [_finding(row) for row in _rows(ledger, query)]


def standing(ledger: Ledger) -> list[Finding]:
    """Return the stops that stand: those of the newest snapshot that nobody accepted."""
    return [found for found in findings(ledger) if found.stops]


def counts(found: Sequence[Finding]) -> dict[str, int]:
    """Count what is beyond a bound, in the words of people: stops, accepted, warnings."""
    return {
        "stops": sum(one.stops for one in found),
        "accepted": sum(one.verdict == "stop" and not one.stops for one in found),
        "warnings": sum(one.verdict == "warning" for one in found),
    }


def pauses_fitting(ledger: Ledger, as_of: datetime) -> bool:
    """Whether nothing is to be fitted for this snapshot: a stop stands, and one serves already."""
    return bool(standing(ledger)) and ledger.newest_published(before=as_of) is not None


def accept(ledger: Ledger, why: str) -> list[Finding]:
    """Let the stops that stand go on, until each measure was normal again; return them.

    Raises:
        InputError: none stands, or there is no reason.
    """
    stops = standing(ledger)
    if not why.strip():
        raise InputError("--why: expected the reason in a few words, got nothing")
    if not stops:
        raise InputError("no stop stands, so there is nothing to accept; see: activity drift")
    _update(ledger, stops, accepted=why)
    return stops


def note_alerted(ledger: Ledger, stops: Sequence[Finding]) -> None:
    """Note that somebody was told of these stops."""
    _update(ledger, stops, alerted_at=now_text())


def _update(ledger: Ledger, stops: Sequence[Finding], **values: str) -> None:
    with ledger.engine.begin() as connection:
        for stop in stops:
            assert stop.as_of is not None
            connection.execute(
                sa.update(DRIFT)
                .where(
                    DRIFT.c.as_of == _key(stop.as_of),
                    DRIFT.c.about == stop.about,
                    DRIFT.c.measure == stop.measure,
                    DRIFT.c.part == stop.part,
                )
                .values(**values)
            )


def _newest(ledger: Ledger, before: datetime | None = None, about: str | None = None) -> str | None:
    query = sa.select(sa.func.max(DRIFT.c.as_of))
    if before is not None:
        query = query.where(DRIFT.c.as_of < _key(before), DRIFT.c.about == about)
    with ledger.engine.connect() as connection:
        found: str | None = connection.execute(query).scalar()
    return found


def _rows(ledger: Ledger, query: sa.Select[Any]) -> list[dict[str, Any]]:
    with ledger.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _key(as_of: datetime) -> str:
    return as_of.astimezone(UTC).isoformat(timespec="microseconds")


KEPT = (
    *("about", "measure", "part", "kind", "value", "n_rows"),
    *("baseline", "verdict", "accepted", "alerted_at"),
)


def _row(as_of: datetime, found: Finding) -> dict[str, Any]:
    bounds = dict(zip(("warn_low", "warn_high"), found.warn, strict=True))
    bounds |= dict(zip(("stop_low", "stop_high"), found.stop, strict=True))
    return {name: getattr(found, name) for name in KEPT} | bounds | {"as_of": _key(as_of)}


def _finding(row: Mapping[str, Any]) -> Finding:
    return Finding(
        **{name: row[name] for name in KEPT},
        warn=(row["warn_low"], row["warn_high"]),
        stop=(row["stop_low"], row["stop_high"]),
        as_of=datetime.fromisoformat(row["as_of"]),
    )
