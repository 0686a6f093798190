"""The items that a line may predict, as rows of the item table."""

from collections.abc import Sequence

import duckdb
import numpy as np
from numpy.typing import NDArray

from models.sequences import ItemTable
from transformations.config import Config
from transformations.errors import InputError
from transformations.item_kinds import other_items, predicted_kinds


def candidate_rows(
    config: Config, con: duckdb.DuckDBPyConnection, items: ItemTable, predicts: Sequence[str]
) -> NDArray[np.int32] | None:
    """Return the rows of the items that these actions may be on, int32, ascending; None for all.

    Raises:
        InputError: there is no such item, or as `transformations.item_kinds.other_items`.
    """
    others = con.sql(other_items(config, con, predicts)).to_arrow_table()
    rows = items.rows(others["item_id"].combine_chunks())
    if not rows.any():
        return None
    left = np.setdiff1d(np.arange(1, len(items) + 1, dtype=np.int32), rows)
    if not len(left):
        kinds = " or ".join(predicted_kinds(config, predicts) or ["but searches"])
        raise InputError(f"expected items of the kind {kinds} with a vector, found none")
    return left
