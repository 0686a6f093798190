"""Reads what item encoders are fitted on and encode: items, and what members did, at a moment."""

from collections.abc import Sequence
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.items.protocol import Behaviour, Corpus, Document
from transformations.config import Config
from transformations.duck import sql
from transformations.errors import InputError
from transformations.item_kinds import other_items
from transformations.layout import files_between
from transformations.quoting import quoted
from transformations.tables import activity_query
from transformations.timestamps import EPOCH


def corpus_at(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    moment: datetime,
    with_activity: bool,
    with_searches: bool = False,
    predicts: Sequence[str] = (),
    number: str = "",
) -> Corpus:
    """Return the items of `stg_items` known before a moment, and the actions known by then.

    Args:
        with_activity: Whether to read what members did.
        with_searches: Whether the texts that members searched for are among the items.
        predicts: Actions whose kinds of items are the candidates; default: all items are.
        number: The attribute whose numbers the behaviour holds; default: none.

    Raises:
        InputError: as `transformations.item_kinds.other_items`, and `behaviour_before`.
    """
    query = sql("items_known", __file__)
    parameters = {"moment": moment, "with_searches": with_searches}
    items: pa.Table = con.sql(query, params=parameters).to_arrow_table()
    documents = [
        Document(text, categories)
        for text, categories in zip(
            items["text"].to_pylist(), items["categories"].to_pylist(), strict=True
        )
    ]
    ids = items["item_id"].combine_chunks()
    candidates = None
    if predicts:
        others = con.sql(other_items(config, con, predicts)).to_arrow_table()["item_id"]
        candidates = pc.invert(pc.is_in(ids, value_set=others.combine_chunks())).to_numpy(
            zero_copy_only=False
        )
    return Corpus(
        documents,
        ids,
        items["available_at"].to_numpy(),
        behaviour_before(config, con, moment, number) if with_activity else None,
        candidates,
    )


def behaviour_before(
    config: Config, con: duckdb.DuckDBPyConnection, moment: datetime, number: str = ""
) -> Behaviour:
    """Return the actions that happened, and were known, before a moment.

    Args:
        number: The attribute whose numbers it holds; default: none.

    Raises:
        InputError: no number of this name is configured.
    """
    kinds = {name: attribute.kind for name, attribute in config.rules.attributes.items()}
    if number and kinds.get(number) != "number":
        known = ", ".join(name for name, kind in kinds.items() if kind == "number")
        raise InputError(
            f"expected a number of events.attributes in {config.file.name} "
            f"({known or 'there is none'}), got {number!r}"
        )
    files = files_between(config.layout.activity, EPOCH, moment)
    activity = activity_query(config, con, files)
    value = f"attributes[{quoted(number)}]" if number else "null::double"
    con.execute(
        f"create or replace temp view activity_so_far as select *, {value} as number "
        f"from ({activity})"
    )
    actions = tuple(config.actions)
    parameters = {"moment": moment, "actions": list(actions)}
    found: pa.Table = con.sql(sql("behaviour", __file__), params=parameters).to_arrow_table()
    table = found.combine_chunks()
    con.execute("drop view activity_so_far")
    items = table["item_id"].combine_chunks().dictionary_encode()
    members = table["member_id"].combine_chunks()
    is_first = np.ones(len(members), bool)
    if len(members) > 1:
        is_first[1:] = pc.not_equal(members[1:], members[:-1]).to_numpy(zero_copy_only=False)
    return Behaviour(
        members=np.cumsum(is_first) - 1,
        items=items.indices.to_numpy().astype(np.int32),
        item_ids=items.dictionary,
        timestamps=table["timestamp_us"].to_numpy(),
        signs=table["sign"].to_numpy(),
        codes=table["code"].to_numpy(),
        actions=actions,
        numbers=table["number"].to_numpy(zero_copy_only=False) if number else None,
    )
