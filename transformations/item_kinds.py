"""The kinds of items: which ones a line may predict."""

from collections.abc import Sequence

import duckdb

from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, parquet
from transformations.errors import InputError
from transformations.quoting import quoted
from transformations.rules import SEARCH


def predicted_kinds(config: Config, predicts: Sequence[str]) -> list[str] | None:
    """Return the kinds of items that actions are on; None: any kind but a search.

    Raises:
        InputError: an action is not configured, or none of them can be positive.
    """
    actions = config.rules.actions
    for name in predicts:
        if name not in actions or not actions[name].can_be_positive:
            able = ", ".join(n for n, action in actions.items() if action.can_be_positive)
            raise InputError(
                f"expected to predict positive actions of {config.file.name} ({able}), got {name}"
            )
    kinds = {actions[name].item_kind for name in predicts}
    if not predicts or None in kinds:
        return None
    return sorted(kind for kind in kinds if kind is not None)


def has_kinds(config: Config, con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the staged items say their kind; those of an older version do not."""
    columns = con.execute(f"describe from {parquet([config.layout.staged_items])}").fetchall()
    return "kind" in {name for name, *_ in columns}


def other_items(config: Config, con: duckdb.DuckDBPyConnection, predicts: Sequence[str]) -> str:
    """Return the query of the items that are not predicted: item_id.

    They are those of other kinds than `predicted_kinds`; else searches, which nobody recommends.

    Raises:
        InputError: as `predicted_kinds`; or kinds are predicted and no item has one.
    """
    kinds, staged = predicted_kinds(config, predicts), config.layout.staged_items
    if not (staged.exists() and has_kinds(config, con)):
        if kinds is not None:
            raise InputError(
                f"expected items of the kind {' or '.join(kinds)}, but no item has a kind; name "
                f"its column as items.kind in {config.file.name}"
            )
        return f"select null::{SQL_ID_TYPES[config.item_id_type]} as item_id where false"
    listed = ", ".join(quoted(kind) for kind in kinds or [SEARCH])
    which = f"kind is null or kind not in ({listed})" if kinds else f"kind in ({listed})"
    return f"select distinct item_id from {parquet([staged])} where {which}"
