"""Two real data sets one after the other in one clone: IFDB, then X-Wines."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from tests.worlds.clone import AVERAGE_ONLY, READ, Clone
from tests.worlds.real_data import IFDB, XWINES, needs_ifdb, needs_xwines

SIGNS = {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative"}
JOIN = """
from datetime import datetime, timedelta, timezone
import pandas as pd
later = datetime.now(timezone.utc) + timedelta(days=1)
before = datetime.fromisoformat(sys.argv[2]) - timedelta(hours=1)
joined = store.get_historical_features(
    entity_df=pd.DataFrame(
        {"member_id": [member] * 2, "item_id": [item] * 2, "event_timestamp": [before, later]}
    ),
    features=store.get_feature_service("ranker_average_v1"),
    filter_by_created_timestamp=True,
).to_df()
print(joined.drop(columns="event_timestamp").to_json(orient="records", double_precision=15))
"""


def set_up(clone: Clone, name: str, source: Path, window: str) -> datetime:
    """Make a workspace of two files, look at it and run it; return its snapshot's as_of."""
    sources = [f"--{what}={source / what}.parquet" for what in ("events", "items")]
    clone.activity("init", name, *sources)
    folder = clone.root / "workspaces" / name
    guessed = yaml.safe_load((folder / "activity.yaml").read_text())
    assert (guessed["window"], guessed["rhythm"]) == (window, {"snapshot": "7d"})
    assert guessed["actions"] == SIGNS
    (folder / "catalog.py").write_text(AVERAGE_ONLY)

    said = clone.activity("check", "--config", name)
    ((events,),) = duckdb.sql(f"select count(*) from '{source}/events.parquet'").fetchall()
    assert f"{events:,}" in said
    assert not (folder / "data").exists()  # it writes nothing
    clone.activity("run", "--as-of", "last", "--config", name)
    rows = clone.rows(
        "select max(event_timestamp) from '{data}/member_sequences/*/*.parquet'",
        f"workspaces/{name}/data",
    )
    as_of: datetime = rows[0][0]
    return as_of


def busiest(source: Path, as_of: datetime, days: int) -> tuple[int, Any, int]:
    """Return the member with the most actions in the window, its last item, and their number."""
    (found,) = duckdb.execute(
        "select member_id, max_by(item_id, event_timestamp), count(*) from (select distinct "
        f"member_id, item_id, action, event_timestamp from '{source}/events.parquet' where "
        "event_timestamp < $as_of and event_timestamp >= $as_of - to_days($days)) "
        "group by 1 order by 3 desc, 1 limit 1",
        {"as_of": as_of, "days": days},
    ).fetchall()
    return found


@needs_ifdb
@needs_xwines
def test_two_real_data_sets_one_after_the_other(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    as_of = set_up(clone, "ifdb", IFDB, "28d")
    player, game, played = busiest(IFDB, as_of, 28)
    games = clone.ranker("ifdb", player, game)
    assert games["n_actions"] == min(played, 32)

    as_of = set_up(clone, "xwines", XWINES, "730d")
    taster, wine, tasted = busiest(XWINES, as_of, 730)
    printed = clone.python(
        READ + JOIN, json.dumps([taster, wine]), as_of.isoformat(), folder="workspaces/xwines"
    )
    wines, (before, later) = map(json.loads, printed.splitlines())
    assert wines["n_actions"] == min(tasted, 32)
    assert clone.ranker("ifdb", player, game) == games

    # The join finds what is online, and nothing of before it could be read.
    assert before["n_actions"] == 0
    assert before["apply_embedding"] is None
    assert later["n_actions"] == wines["n_actions"]
    for vector in ("apply_embedding", "embedding"):
        assert any(wines[vector])
        assert later[vector] == pytest.approx(wines[vector], abs=1e-7)
    assert later["cosine_apply"] == pytest.approx(wines["cosine_apply"], abs=1e-5)
