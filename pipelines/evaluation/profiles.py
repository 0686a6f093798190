"""What the profiles of labels' members said at their times."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from pipelines.ranking.joined import column_of
from transformations.config import Config
from transformations.duck import parquet
from transformations.quoting import identifier
from transformations.stats.columns import profile_columns

Profiles = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""Column → its value at each label, and whether it is there: [labels] each."""


def profiles_at(
    config: Config, con: Connection, members: pa.Array, times: NDArray[Any]
) -> Profiles:
    """Return each member's newest profile up to a time, as a training join would; staged ones.

    Args:
        members: Ids.
        times: Microseconds since 1970.
    """
    names = list(profile_columns(config))
    if not names:
        return {}
    asked = pa.table({"row": range(len(times)), "member_id": members, "at": times})
    con.register("asked_profiles", asked)
    found = con.sql(
        f"select {', '.join(f'said.{identifier(name)}' for name in names)} "
        f"from asked_profiles asof left join {parquet([config.layout.members])} as said "
        "on asked_profiles.member_id = said.member_id "
        "and make_timestamptz(asked_profiles.at) >= said.available_at order by asked_profiles.row"
    ).to_arrow_table()
    con.unregister("asked_profiles")
    return {name: column_of(found[name]) for name in names}
