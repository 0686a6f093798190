"""The one function of the on-demand views `activity_match_…`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from feast.transformation.udf_rehydrate import rehydrate_udf_from_source

from transformations import names

KINDS = "kinds: tuple[str, ...] = ()"
SAID = 'measures: tuple[str, ...] = ("cosine", "dot")'


def match_of(
    kinds: Sequence[str] | None, similarity: names.Similarity = "cosine"
) -> tuple[Callable[..., Any], str]:
    """Return `activity_match` as a line needs it, and its text.

    Args:
        kinds: Of the items that it is not 0.0 of; None: any.
        similarity: Of the item space: `names.MEASURES` has what is said of each vector.
    """
    text = changed = inspect.getsource(activity_match)
    if similarity != "cosine":
        changed = changed.replace(SAID, f"measures = {names.MEASURES[similarity]!r}", 1)
    if kinds is not None:
        changed = changed.replace(KINDS, f"kinds = {tuple(kinds)!r}", 1)
    if changed == text:
        return activity_match, text
    return rehydrate_udf_from_source(changed), changed


def activity_match(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Compare each of the member's vectors with the item's; return what is kept in other forms.

    For every vector `<stem>_embedding` it returns `cosine_<stem>` and `dot_<stem>` with the input
    `embedding` (`cosine` and `dot` for the single `activity_embedding`): 0.0 where the member or
    the item is missing or the item's input `kind` is not among the kinds that the line predicts,
    and cosine 0.0 where a vector has length 0. In a space whose similarity is the dot product, it
    returns that alone. For every input `stored_…` it returns the same without `stored_`: a number,
    with 0 for null; or a vector that is kept as int8 (models/quantization.py) as float32 numbers,
    null where it is null, and how it matches.

    Feast stores this text and runs it in a bare namespace, so it may use nothing outside its body.
    One text serves every aggregator. Feast passes each source feature twice: as `name` and as
    `view__name`. We use only names that appear in both forms, which excludes the caller's own
    columns.

    Args:
        inputs: Columns of equal length; a vector is a list of numbers, its bytes, or None.

    Raises:
        ValueError: vectors of different lengths, which belong to different spaces.
    """
    import numpy as np

    # Replaced in the text of a line that predicts actions on items of some kinds, and of one whose
    # space is compared by dot product.
    kinds: tuple[str, ...] = ()
    measures: tuple[str, ...] = ("cosine", "dot")

    def matrix(rows: list[Any]) -> Any:
        width = max((len(row) for row in rows if row is not None), default=0)
        missing = [0.0] * width
        filled = [missing if row is None or len(row) == 0 else row for row in rows]
        return np.asarray(filled, dtype=np.float64).reshape(len(rows), width)

    def decoded(rows: list[Any]) -> list[Any]:
        # Before it registers the function, Feast tries it on these bytes and on [1.0].
        kept = [bytes(5) if row == b"hello world" else row for row in rows if row is not None]
        width = len(kept[0]) if kept else 4
        stored = np.frombuffer(b"".join(kept), np.uint8).reshape(len(kept), width)
        scale = np.ascontiguousarray(stored[:, :4]).view("<f4")
        vectors = iter(stored[:, 4:].view(np.int8).astype(np.float32) * scale)
        return [None if row is None else next(vectors) for row in rows]

    declared = {name.split("__", 1)[1] for name in inputs if "__" in name} & set(inputs)
    item = matrix(inputs["embedding"])
    if kinds:
        item[[kind not in kinds for kind in inputs["kind"]]] = 0.0
    item_length = np.sqrt(np.einsum("nd,nd->n", item, item))
    results: dict[str, list[Any]] = {}
    for name in sorted(declared):
        is_vector = name.endswith("_embedding")
        if name.startswith("stored_") and not is_vector:
            # Where some are null, pandas makes floats of whole numbers.
            numbers = [0 if n is None or n != n else n for n in inputs[name]]
            whole = all(n == int(n) for n in numbers)
            results[name.removeprefix("stored_")] = [int(n) if whole else n for n in numbers]
        elif is_vector:
            vectors, field = inputs[name], name
            if name.startswith("stored_") and name != "stored_embedding":  # of an action STORED
                field = name.removeprefix("stored_")
                vectors = results[field] = decoded(vectors)
            member = matrix(vectors)
            dot = np.zeros(len(item))
            if member.shape[1] and item.shape[1]:
                if member.shape[1] != item.shape[1]:
                    raise ValueError(
                        f"{name} has {member.shape[1]} numbers and the item's vector has "
                        f"{item.shape[1]}; they come from different item encoders: apply and "
                        "publish both with the same configuration"
                    )
                dot = np.einsum("nd,nd->n", member, item)
            length = np.sqrt(np.einsum("nd,nd->n", member, member)) * item_length
            cosine = np.divide(dot, length, out=np.zeros(len(item)), where=length > 0)
            stem = "" if field == "activity_embedding" else "_" + field.removesuffix("_embedding")
            said = {"cosine": cosine, "dot": dot}
            results |= {f"{measure}{stem}": said[measure].tolist() for measure in measures}
    return results
