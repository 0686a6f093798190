"""The labels of a ranker: what members did on items that were new to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.rankers.inputs import Floats
from models.rankers.item_categories import items_known
from transformations.config import Config
from transformations.duck import sql
from transformations.errors import TooFewError
from transformations.layout import files_between
from transformations.tables import activity_query
from transformations.timestamps import DAY_US, EPOCH


@dataclass(frozen=True, eq=False)
class Labels:
    """Actions in the order of time; every array is [labels].

    Attributes:
        members, items: Ids.
        actions: Names.
        signs: 1 or -1.
        times: Microseconds since 1970, int64.
        context: Key of `recommend.context` → its value at each label, as a request would have said
            it; None where it is not known. A key that is not there is known of none.
    """

    members: NDArray[Any]
    items: NDArray[Any]
    actions: NDArray[Any]
    signs: NDArray[np.int32]
    times: NDArray[np.int64]
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    def take(self, rows: NDArray[np.integer] | slice) -> "Labels":
        """Return some of them."""
        return Labels(
            self.members[rows],
            self.items[rows],
            self.actions[rows],
            self.signs[rows],
            self.times[rows],
            {key: values[rows] for key, values in self.context.items()},
        )

    @property
    def timestamps(self) -> pd.DatetimeIndex:
        """Their times for a training join."""
        return pd.to_datetime(self.times, unit="us", utc=True).as_unit("us")


def read_labels(
    config: Config, con: Connection, since: datetime, before: datetime, most: int
) -> Labels:
    """Read the labels in [since, before), about `most` of them: those of a sample of members.

    Nothing that was ingested at or after `before` is read. Where `recommend.context` names an
    attribute of actions, the action says what the request would have.

    Raises:
        TooFewError: there is none.
        InputError: no item is staged.
    """
    items_known(config, con)
    files = files_between(config.layout.activity, EPOCH, before)
    con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
    parameters = {"since": since, "until": before, "most": most}
    table: pa.Table = con.sql(sql("ranking_labels", __file__), params=parameters).to_arrow_table()
    if not table.num_rows:
        raise TooFewError(
            f"expected actions with a sign from {since:%Y-%m-%d} to {before:%Y-%m-%d} for a ranker "
            "to learn from, found none; stage more events, or set fit_holdback or the ranker's "
            "`days`"
        )
    return Labels(
        table["member_id"].to_numpy(),
        table["item_id"].to_numpy(),
        table["action"].to_numpy(),
        table["sign"].to_numpy().astype(np.int32),
        table["event_timestamp"].cast("int64").to_numpy(),
        {
            key: np.array(pc.struct_field(table["attributes"], key).to_pylist(), object)
            for key, kind in config.recommend.context.items()
            if (attribute := config.rules.attributes.get(key)) is not None
            and (attribute.kind == "number") == (kind == "number")
        },
    )


def label_weights(config: Config, con: Connection, labels: Labels, until: datetime) -> Floats:
    """Return the factor of each label's weight by `train.weight`, float32 [labels]; 1 without it.

    It is that of aggregators' training examples: of the label's member and action, by what happened
    and was ingested before `until`.
    """
    if config.train.weight is None:
        return np.ones(len(labels), np.float32)
    files = files_between(config.layout.activity, EPOCH, until)
    con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
    con.execute(config.train.macro)
    columns = {
        "label": np.arange(len(labels)),
        "member_id": labels.members,
        "action": labels.actions.astype(str),
    }
    con.register("labels", pa.table(columns))
    query, parameters = (
        sql("label_weights", __file__),
        {"until": until, "actions": [*config.actions]},
    )
    weights = con.execute(query, parameters).fetchnumpy()["weight"]
    con.unregister("labels")
    con.execute("drop view activity")
    return np.asarray(weights, np.float32)


def items_of_days(labels: Labels) -> dict[int, NDArray[Any]]:
    """Return the items that were acted on, by day since 1970: what easy negatives come from."""
    days = labels.times // DAY_US
    return {int(day): np.unique(labels.items[days == day]) for day in np.unique(days)}
