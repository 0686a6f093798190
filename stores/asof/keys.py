"""Labels whose ids are of another type than a view's key, made to compare (stores/ids.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stores.asof.labels import AsofLabels
from stores.asof.query import AsofView
from stores.ids import IdError, converted_sql


def compared(labels: AsofLabels, views: Sequence[AsofView]) -> tuple[AsofLabels, list[AsofView]]:
    """Return the labels with a converted column per key that needs one, and views that read it.

    Raises:
        ValueError: a key that the labels lack, or one of a type that no id of the view has.
    """
    converted: dict[str, tuple[str, str]] = {}
    names: dict[tuple[str, str], str] = {}
    reading = []
    for view in views:
        keys = dict(view.keys)
        for ours, theirs in view.keys.items():
            if theirs not in labels.columns:
                raise ValueError(
                    f"expected a column {theirs!r} in the entity frame, the key of {view.name}; "
                    f"got {', '.join(labels.columns)}"
                )
            given = labels.column(theirs)
            got, expected = labels.columns[theirs], view.scan.kind(ours)
            try:
                made = converted_sql(given, got, expected)
            except IdError as error:
                raise ValueError(
                    f"expected {theirs!r} in the entity frame to compare with {view.name}'s key "
                    f"{ours!r}: {error}. Convert the column"
                ) from None
            keys[ours] = given
            if made is not None:
                name = names.setdefault((theirs, expected), f"id_{len(names)}")
                converted[name] = theirs, made
                keys[ours] = name
        reading.append(replace(view, keys=keys))
    return replace(labels, converted=converted), reading
