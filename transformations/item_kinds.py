"""The kinds of items: which ones a line may predict."""

from collections.abc import Sequence

import duckdb

from transformations.config import Config
from transformations.duck import parquet
from transformations.errors import InputError


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


def item_kinds(config: Config, con: duckdb.DuckDBPyConnection) -> str:
    """Return the query of each item's kind: item_id and kind, null where the source names none."""
    kind = "bigint" if config.item_id_type == "int64" else "varchar"
    staged = config.layout.staged_items
    nothing = f"select null::{kind} as item_id, null::varchar as kind where false"
    if not staged.exists():
        return nothing
    described = con.execute(f"describe from {parquet([staged])}").fetchall()
    if "kind" not in {name for name, *_ in described}:
        return nothing
    return (
        f"select item_id, arg_max(kind, available_at) as kind from {parquet([staged])} "
        "group by item_id"
    )
