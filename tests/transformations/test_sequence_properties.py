"""The SQL of member_sequences against a brute-force oracle, on random event logs."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worlds.events import (
    AS_OF,
    DAY,
    configure,
    event_logs,
    expected_sequences,
    write_activity,
)
from transformations import tables
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import partition

WINDOW = timedelta(days=3)
LENGTH = 4
PREVIOUS = [AS_OF - DAY, AS_OF - 5 * DAY, AS_OF - timedelta(hours=7)]


def built(config: Config, previous: Any) -> dict[Any, dict[str, Any]]:
    """Build one snapshot and read it back, by member."""
    with connect(config) as con:
        tables.build_sequences(config, con, AS_OF, previous, AS_OF + timedelta(hours=6))
    rows = pq.ParquetFile(partition(config.layout.sequences, AS_OF)).read().to_pylist()
    members = [row.pop("member_id") for row in rows]
    assert members == sorted(set(members))
    for row in rows:
        assert row.pop("event_timestamp") == AS_OF
        assert row.pop("created_timestamp") == AS_OF + timedelta(hours=6)
    return dict(zip(members, rows, strict=True))


@pytest.mark.parametrize("events_at_once", [10_000, 3], ids=["one range", "ranges of members"])
@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_sql_equals_brute_force(
    id_type: str, events_at_once: int, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "EVENTS_AT_ONCE", events_at_once)
    monkeypatch.setattr(tables, "EVENTS_PER_SAMPLE", 1)
    previous = data.draw(st.sampled_from(PREVIOUS), label="previous_as_of")
    log = data.draw(event_logs(id_type, [AS_OF, previous], WINDOW), label="events")
    with TemporaryDirectory() as folder:
        config = configure(Path(folder), id_type=id_type, window=WINDOW, length=LENGTH)
        write_activity(config, log)
        assert built(config, previous) == expected_sequences(log, AS_OF, previous, WINDOW, LENGTH)
