"""The items that a line may predict, as rows of the item table."""

from collections.abc import Sequence

import duckdb
import numpy as np
from numpy.typing import NDArray

from models.sequences import ItemTable
from transformations.config import Config
from transformations.errors import InputError
from transformations.item_kinds import item_kinds, predicted_kinds
from transformations.rules import SEARCH


def candidate_rows(
    config: Config, con: duckdb.DuckDBPyConnection, items: ItemTable, predicts: Sequence[str]
) -> NDArray[np.int32] | None:
    """Return the rows of the items that these actions may be on, int32, ascending; None for all.

    Args:
        predicts: As for `transformations.item_kinds.predicted_kinds`.

    Raises:
        InputError: there is no such item.
    """
    kinds = predicted_kinds(config, predicts)
    kept = con.sql(
        f"select item_id from ({item_kinds(config, con)}) "
        "where case when $kinds::varchar[] is null then kind = $search "
        "else list_contains($kinds::varchar[], kind) end",
        params={"kinds": kinds, "search": SEARCH},
    ).to_arrow_table()
    rows = items.rows(kept["item_id"].combine_chunks())
    rows = np.unique(rows[rows > 0])
    if kinds is not None:
        if not len(rows):
            raise InputError(
                f"expected items of the kind {' or '.join(kinds)} with a vector, found none; "
                f"items.kind in {config.file.name} names the column with an item's kind"
            )
        return rows
    # Without kinds: all but searches, which nobody recommends.
    return np.setdiff1d(np.arange(1, len(items) + 1, dtype=np.int32), rows) if len(rows) else None
