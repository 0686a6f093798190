"""Whom an alert did not reach, in the ledger: said when it begins, once a day, and when it ends."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from operations.ledger import METADATA, Ledger

SAID_AGAIN = timedelta(days=1)

FAILURES = sa.Table(
    "alert_failure",
    METADATA,
    # A key of `alerts`: command, webhook.
    sa.Column("channel", sa.String, primary_key=True),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("said_at", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
)


def failing(ledger: Ledger) -> set[str]:
    """Return the channels whose last alert failed."""
    with ledger.engine.connect() as connection:
        return {*connection.execute(sa.select(FAILURES.c.channel)).scalars()}


def note_tried(ledger: Ledger, tried: Mapping[str, str | None], now: datetime) -> list[str]:
    """Note what came of alerts; return what a person has not heard yet, one text each.

    Args:
        tried: Channel → what went wrong; None where it was told.
    """
    said = []
    with ledger.engine.begin() as connection:
        rows = connection.execute(sa.select(FAILURES)).mappings().all()
        known = {row["channel"]: row for row in rows}
        for channel, why in tried.items():
            row = known.get(channel)
            if row is not None:
                connection.execute(sa.delete(FAILURES).where(FAILURES.c.channel == channel))
            if why is None:
                if row is not None:
                    said.append(f"alerts.{channel} works again; it failed since {_day(row)}")
                continue
            since = now.isoformat() if row is None else row["since"]
            said_at = now.isoformat() if row is None else row["said_at"]
            if row is None:
                said.append(f"alerts.{channel}: {why}")
            elif now - datetime.fromisoformat(said_at) >= SAID_AGAIN:
                said.append(f"alerts.{channel}, since {_day(row)}: {why}")
                said_at = now.isoformat()
            values = {"channel": channel, "since": since, "said_at": said_at, "why": why}
            connection.execute(sa.insert(FAILURES).values(values))
    return said


def _day(row: sa.RowMapping) -> str:
    return f"{row['since'][:16].replace('T', ' ')} UTC"
