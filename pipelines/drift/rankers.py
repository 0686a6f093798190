"""The measures of what rankers scored, from the impressions: the scores, and what came of them."""

from datetime import datetime, timedelta

from duckdb import DuckDBPyConnection as Connection

from models.lines import ranker_lines
from operations.rankers import made
from pipelines.drift.measure import SAMPLE, Series, by_day, measured_in
from pipelines.ranking.impressions import attribute_impressions
from transformations.config import Config
from transformations.duck import parquet
from transformations.layout import parts_between
from transformations.quoting import quoted

DAY = timedelta(days=1)
SCORES = ("stability", "distance")


def ranker_series(config: Config, con: Connection, as_of: datetime) -> list[Series]:
    """Measure each ranker's fit on what was shown; nothing where no impression is.

    The distribution of the scores of the newest day is compared with that of the days before, and
    what they promise with what came of them: on the newest day whose impressions had
    `recommend.attribution` to become an action. Both within one fit, so a new one has no past.
    """
    return [*_scores(config, con, as_of), *_calibration(config, con, as_of)]


def _scores(config: Config, con: Connection, as_of: datetime) -> list[Series]:
    start = as_of - (config.drift.days + 1) * DAY
    files = parts_between(config.layout.impressions, "shown_at", start, as_of)
    if not files:
        return []
    end = f"timestamptz {quoted(as_of.isoformat())}"
    shown = (
        f"from {parquet(files, 'union_by_name = true')} where score is not null "
        f"and shown_at < {end} and shown_at >= timestamptz {quoted(start.isoformat())}"
    )
    ((n_rows,),) = con.execute(f"select count(*) {shown}").fetchall()
    every = max(n_rows // (SAMPLE * (config.drift.days + 1)), 1)
    con.execute(
        "create or replace temp table drift_scores as select "
        f"(epoch_us({end}) - epoch_us(shown_at) - 1) // 86400000000 as back, "
        f"ranker as name, score as number, null::varchar as word {shown} "
        f"and hash(request_id, position) % {every} = 0"
    )
    con.execute("create or replace temp view drift_columns as from drift_scores")
    return by_day(measured_in(con, "rankers", SCORES, {}))


def _calibration(config: Config, con: Connection, as_of: datetime) -> list[Series]:
    """Compare what fits promised with what came of it, of those whose scores are probabilities."""
    weights = [
        (str(line), action, weight)
        for line in made(config, ranker_lines(config))
        if line.scores_are_probabilities
        for action, weight in line.heads(config.rules).items()
    ]
    until = as_of - config.recommend.attribution
    since = until - DAY
    if not weights or not parts_between(config.layout.impressions, "shown_at", since, until):
        return []
    # What was shown later takes actions from what was shown that day.
    if not attribute_impressions(config, con, since, as_of):
        return []
    con.execute(
        "create or replace temp table drift_weights (ranker varchar, action varchar, weight double)"
    )
    con.executemany("insert into drift_weights values ($1, $2, $3)", weights)
    parameters = {"since": since, "until": until}
    found = measured_in(con, "rankers", ["calibration"], parameters)
    return [Series(one, {}, None) for _, one in found]
