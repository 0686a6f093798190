"""What the weeks before an experiment were like: how many members came, what they did."""

from datetime import datetime, timedelta

from duckdb import DuckDBPyConnection as Connection

from operations.experiments.metrics import IMPRESSIONS, Metric
from operations.experiments.power import Weeks, narrowest_at
from pipelines.experiments.outcomes import ALL, exposed, moments
from transformations.config import Config
from transformations.errors import InputError
from transformations.layout import earliest, partition_files

WEEK = timedelta(days=7)
MOST_WEEKS = 8
DEFAULT_PLANNED = 10_000


def weeks_before(config: Config, con: Connection, metric: Metric, until: datetime) -> list[Weeks]:
    """Return the last week before `until`, the last two, … as far as they go back, at most 8.

    Members are those who were shown something; where nothing was shown for a whole week yet, those
    who acted.

    Raises:
        InputError: there is not a whole week, or nobody was there.
    """
    shown = earliest(sorted(config.layout.impressions.glob("*=*/*.parquet")), "shown_at")
    acted = earliest(partition_files(config.layout.activity), "event_timestamp")
    only_acted = _whole(shown, until) == 0
    if only_acted and (metric.per in ("impression", "list") or metric.of == IMPRESSIONS):
        raise InputError(
            f"expected a week of impressions before, for {metric}, got less; say what they would "
            "be: --members-a-day 2000 --baseline 0.03"
        )
    found = []
    for weeks in range(1, _whole(acted if only_acted else shown, until) + 1):
        exposed(config, con, until - weeks * WEEK, until, only_acted=only_acted)
        arms = moments(config, con, metric).get(ALL)
        if arms is not None:
            everybody, _ = arms
            variance = everybody.variance * everybody.members
            found.append(Weeks(weeks, everybody.members, everybody.rate, variance))
    if not found:
        raise InputError(
            "expected a week of activity before, got less; say what it would be: --members-a-day "
            "2000 --baseline 0.03"
        )
    return found


def planned_members(
    config: Config,
    con: Connection,
    metric: Metric,
    effect: float,
    share: float,
    weeks: int,
    until: datetime,
) -> int:
    """Return for how many members an experiment's intervals are made, by the weeks before it.

    As `narrowest_at`; DEFAULT_PLANNED where there were no weeks.
    """
    if effect <= 0 or not 0 < share < 1:
        return DEFAULT_PLANNED  # whoever starts it refuses them
    try:
        history = weeks_before(config, con, metric, until)
    except InputError:
        return DEFAULT_PLANNED
    return narrowest_at(history, effect, share, weeks)


def _whole(first: datetime | None, until: datetime) -> int:
    return 0 if first is None else min(max((until - first) // WEEK, 0), MOST_WEEKS)
