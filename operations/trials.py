"""What was tried on validation, and when the test was opened: rows of the ledger.

A test that is opened again and again becomes a validation; the ledger says how often it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from operations.ledger import METADATA, RUNS, Ledger, now_text

TRIALS = sa.Table(
    "trial",
    METADATA,
    sa.Column("trial_id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Integer, sa.ForeignKey(RUNS.c.run_id), nullable=False),
    sa.Column("made_at", sa.String, nullable=False),
    # validation, or test: then `what` is what was compared.
    sa.Column("period", sa.String, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("metric", sa.String),
    sa.Column("value", sa.Float),
)


@dataclass(frozen=True)
class Trial:
    """One setting that was tried on validation, or one opening of the test.

    Attributes:
        what: What was set: of a variant, its name.
        settings: As JSON values.
        metric: What it was judged by; None for an opening of the test.
    """

    period: str
    what: str
    settings: Mapping[str, Any]
    metric: str | None = None
    value: float | None = None
    made_at: str = ""


def note_trial(ledger: Ledger, run_id: int, trial: Trial) -> None:
    """Append a row to the ledger."""
    with ledger.engine.begin() as connection:
        connection.execute(
            sa.insert(TRIALS).values(
                run_id=run_id,
                made_at=trial.made_at or now_text(),
                period=trial.period,
                what=trial.what,
                settings=dict(trial.settings),
                metric=trial.metric,
                value=trial.value,
            )
        )


def trials(ledger: Ledger, period: str) -> list[Trial]:
    """Return every trial of a period that this workspace's ledger has, the oldest first."""
    query = sa.select(TRIALS).where(TRIALS.c.period == period).order_by(TRIALS.c.trial_id)
    with ledger.engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    names = ("period", "what", "settings", "metric", "value", "made_at")
    return [Trial(**{name: row[name] for name in names}) for row in rows]
