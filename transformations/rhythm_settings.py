"""`rhythm:` and `retention:` of `activity.yaml`: how often parts are made, how long they stay."""

from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from transformations.durations import Duration, Every, said


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rhythm(_Strict):
    """How often `activity run` makes each part again: a duration, a word, or `never`."""

    snapshot: Every = timedelta(days=1)
    """Sequences, vectors and statistics of all members; also the step of a backfill."""
    candidates: Every = timedelta(days=1)
    """Lists of the candidate sources, made with a snapshot."""
    spaces: Every = timedelta(days=7)
    """Fits of the item spaces that candidate sources read and no ranker does."""
    rankers: Every = timedelta(days=30)
    """Fits of rankers, together with the item spaces and aggregators that they read."""
    lines: dict[str, Every] = {}
    """An item encoder or ranker of the catalogue, as trained_v1 → its own rhythm."""

    @property
    def step(self) -> timedelta:
        """The time between two snapshots."""
        assert self.snapshot is not None  # refused below
        return self.snapshot

    @property
    def lists(self) -> timedelta | None:
        """How often lists are made: as `candidates` says, by default with each snapshot."""
        asked = "candidates" in self.model_fields_set
        return (
            self.candidates if asked or self.candidates is None else max(self.candidates, self.step)
        )

    @model_validator(mode="after")
    def _lists_come_with_a_snapshot(self) -> Self:
        if self.snapshot is None:
            raise ValueError("snapshot: expected how often, got never; everything is read from it")
        if self.lists is not None and self.lists < self.snapshot:
            raise ValueError(
                "candidates: lists are made with a snapshot, so expected at least "
                f"{said(self.step)}, as snapshot has it, got {said(self.lists)}; between two "
                "snapshots `activity items refresh` makes the lists of new items"
            )
        return self


class Retention(_Strict):
    """How old rows may get before `activity sweep` removes them; none is removed by default."""

    activity: Duration | None = None
    """Whole periods of staged activity."""
    snapshots: Duration | None = None
    """Snapshots of every member view, of statistics and of lists, and what was streamed."""
    impressions: Duration | None = None
    """What was shown."""
    quarantine: Duration | None = None
    """Refused rows."""
    archive: Duration | None = None
    """What was read of tables and buses, by the day of reading."""
