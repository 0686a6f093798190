"""What a request would have said at a label that was drawn from actions."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ranking.labels import Labels, read_labels
from tests.pipelines.test_impressions import LONG_AGO, write_items
from tests.worlds.events import AS_OF, Event, configure, table
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import period_file

HOUR = timedelta(hours=1)
ATTRIBUTES = {
    "surface": {"type": "category"},
    "note": {"type": "text"},
    "shift": {"type": "number"},
    "dwell": {"type": "number"},
}


def config_of(folder: Path, context: dict[str, str], attributes: dict[str, Any]) -> Config:
    return configure(
        folder,
        actions={"APPLY": "positive", "OPEN": "neutral"},
        recommend={"context": context},
        events={"attributes": attributes},
    )


@pytest.fixture
def events(tmp_path: Path) -> list[Event]:
    """Three labels: the OPEN before one of them is none, nor is the second APPLY."""
    acted = [
        Event(1, 7, "OPEN", AS_OF - 9 * HOUR),
        Event(1, 7, "APPLY", AS_OF - 8 * HOUR),
        Event(1, 7, "APPLY", AS_OF - 7 * HOUR),
        Event(2, 7, "APPLY", AS_OF - 6 * HOUR),
        Event(2, 8, "APPLY", AS_OF - 5 * HOUR),
    ]
    carried = {
        "surface": ["opened", "home", "again", None, "mail"],
        "note": ["a", "b", "c", None, None],
        "shift": [0.5, 1.5, 2.5, None, 4.5],
        "dwell": [10.0, 20.0, 30.0, 40.0, 50.0],
    }
    config = configure(tmp_path)
    write_items(config, {7: LONG_AGO, 8: LONG_AGO})
    written = table(acted, "int64")
    for name, values in carried.items():
        written = written.append_column(name, pa.array(values))
    file = period_file(config.layout.activity, (AS_OF - 9 * HOUR).date())
    file.parent.mkdir(parents=True)
    pq.write_table(written, file)
    return acted


def read(config: Config) -> Labels:
    with connect(config) as con:
        return read_labels(config, con, LONG_AGO, AS_OF, 10**9)


@pytest.mark.usefixtures("events")
def test_the_action_says_what_the_configuration_names_as_both(tmp_path: Path) -> None:
    context = {"surface": "category", "note": "category", "shift": "number", "device": "category"}
    labels = read(config_of(tmp_path, context, ATTRIBUTES))
    assert labels.items.tolist() == [7, 7, 8]
    assert {key: values.tolist() for key, values in labels.context.items()} == {
        "surface": ["home", None, "mail"],
        "note": ["b", None, None],
        "shift": [1.5, None, 4.5],
    }
    last = labels.take(slice(2, 3))
    assert {key: values.tolist() for key, values in last.context.items()} == {
        "surface": ["mail"], "note": [None], "shift": [4.5],
    }  # fmt: skip


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(
    ("context", "attributes"),
    [
        ({}, ATTRIBUTES),
        ({"surface": "category"}, {}),
        ({"surface": "number", "shift": "category"}, ATTRIBUTES),  # of another kind
    ],
)
def test_else_it_is_missing(
    tmp_path: Path, context: dict[str, str], attributes: dict[str, Any]
) -> None:
    assert read(config_of(tmp_path, context, attributes)).context == {}
