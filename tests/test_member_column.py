"""A scalar column of the member row is one declaration; everything else follows from it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from serving.request.sequences import Event
from serving.request.vectors import RequestTime
from tests.worlds.workspace import END, Workspace
from transformations import member_columns
from transformations.config import ROOT
from transformations.errors import RunFailedError
from transformations.layout import partition
from transformations.member_columns import MemberColumn, MemberRows


def days_active(rows: MemberRows) -> np.ndarray:
    """Days between the first action of the sequence and as_of; null without one."""
    actions = rows.actions()
    first = np.full(len(rows.lengths), np.nan)
    np.fmin.at(first, actions.member, actions.timestamp.astype(float))
    return (rows.as_of - first) // 86_400_000_000


# The worked example of CONTRIBUTING.md.
EXAMPLE: dict[str, Any] = {"np": np, "NDArray": NDArray, **vars(member_columns)}
exec(
    (ROOT / "CONTRIBUTING.md")
    .read_text()
    .split("<!-- test: column -->\n```python\n")[1]
    .split("```")[0],
    EXAMPLE,
)
N_ITEMS: MemberColumn = EXAMPLE["DISTINCT_ITEMS"]
DAYS = MemberColumn(
    "days_active",
    "float64",
    "null",
    "Days since the first action of the sequence.",
    days_active,
    "floor(epoch_us(as_of - event_timestamps[1]) / 86400000000)",
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(member_columns, "MORE_COLUMNS", (*EXAMPLE["MORE_COLUMNS"], DAYS))
    return Workspace(tmp_path)


def expected(workspace: Workspace, member: int) -> tuple[int, float]:
    """Look through the table with pandas."""
    file = partition(workspace.config.layout.sequences, END)
    row = pq.read_table(file).to_pandas().set_index("member_id").loc[member]
    first = pd.to_datetime(row["event_timestamps"][0], utc=True)
    return len(set(row["item_ids"])), (pd.Timestamp(END) - first).days


def test_it_is_in_the_table_online_in_a_training_join_and_at_request_time(
    workspace: Workspace,
) -> None:
    workspace.run(END)
    items, days = expected(workspace, 3)
    assert items > 1
    assert days > 1

    online = workspace.online("ranker_average_v1")
    assert (online["distinct_items"], online["days_active"]) == (items, days)

    store = workspace.store
    labels = pd.DataFrame(
        {
            "member_id": [3, 99],
            "item_id": ["g-1", "g-1"],
            "event_timestamp": [datetime.now(UTC) + timedelta(days=1)] * 2,
        }
    )
    service = store.get_feature_service("ranker_average_v1")
    joined = store.get_historical_features(entity_df=labels, features=service).to_df()
    joined = joined.set_index("member_id")
    assert joined["distinct_items"].to_dict() == {3: items, 99: 0}
    assert joined["days_active"].fillna(-1).to_dict() == {3: days, 99: -1}

    at = END + timedelta(hours=1)
    with RequestTime(workspace.config, store) as requests:
        got = requests.embed([3, 99], [Event(3, "new", "play", END)], at)
    assert got.columns["distinct_items"].tolist() == [items + 1, 0]
    assert np.isnan(got.columns["days_active"]).tolist() == [False, True]


def test_a_column_that_is_not_what_its_check_gives_stops_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = MemberColumn(
        "distinct_items", "int64", "zero", "Wrong.", lambda rows: rows.lengths, N_ITEMS.check
    )
    monkeypatch.setattr(member_columns, "MORE_COLUMNS", (wrong,))
    with pytest.raises(RunFailedError, match="distinct_items is what its check gives"):
        workspace.run(END)


def test_rows_of_before_it_have_null_in_a_training_join(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(member_columns, "MORE_COLUMNS", ())
        workspace.run(END - timedelta(days=1))
    workspace.run(END)
    labels = pd.DataFrame(
        {
            "member_id": [3, 3],
            "item_id": ["g-1", "g-1"],
            "event_timestamp": [END - timedelta(hours=1), END + timedelta(hours=1)],
        }
    )
    service = workspace.store.get_feature_service("ranker_average_v1")
    joined = workspace.store.get_historical_features(entity_df=labels, features=service).to_df()
    joined = joined.sort_values("event_timestamp")
    items, days = expected(workspace, 3)
    assert joined["days_active"].fillna(-1).tolist() == [-1, days]
    assert joined["distinct_items"].tolist() == [0, items]
    assert joined["n_actions"].min() > 0
