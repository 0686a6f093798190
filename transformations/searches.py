"""Actions on a text instead of an item, as a search is: the text gets an id, as items have one.

One function reads a text, in staging, in the stream and in requests. So the same words are the same
item everywhere, whatever their case and spaces. Its id is a hash: negative where ids are integers,
`search:<hex>` where they are strings. Items of the source may not have such ids.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import FunctionNullHandling, PythonUDFType

from transformations.duck import SQL_ID_TYPES, parquet
from transformations.layout import Layout
from transformations.quoting import identifier, quoted
from transformations.rules import IdType, Rules

LONGEST = 200
"""Of a text, in characters, once it is normalized."""
PREFIX = "search:"
RESERVED = "item_id is reserved for texts"

Id = int | str


class Search(NamedTuple):
    """A text that was read: its id and normalized text, or else why it is refused."""

    item_id: Id | None
    text: str | None
    problem: str | None = None


def normalized(text: str) -> str:
    """Return a text in one form: Unicode NFKC, without case, single spaces.

    >>> normalized("  Data\\tENGINEER "), normalized("ﬁnance"), normalized("Straße")
    ('data engineer', 'finance', 'strasse')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def read(id_type: IdType, action: str, text: object) -> Search:
    """Return the id and the normalized text of an action, or why it is refused.

    Args:
        id_type: Of item_id.
        action: The name of the action, for the reason.
        text: As it was sent; None where there is none.
    """
    if text is None:
        return Search(None, None, f"the text of {action} is missing")
    if not isinstance(text, str) or not _is_unicode(text):
        return Search(None, None, f"the text of {action} is not a text")
    words = normalized(text)
    if not words:
        return Search(None, None, f"the text of {action} is missing")
    if len(words) > LONGEST:
        return Search(None, None, f"the text of {action} is too long")
    return Search(_id(id_type, words), words)


def _id(id_type: IdType, words: str) -> Id:
    digest = hashlib.blake2b(words.encode(), digest_size=16)
    if id_type == "string":
        return PREFIX + digest.hexdigest()
    # From -1 to -(2**63 - 1): whoever negates it stays within int64.
    return -1 - int.from_bytes(digest.digest()[:8]) % (2**63 - 1)


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8; JSON escapes can leave a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_search(item_id: Id) -> bool:
    """Whether an id is one that `read` gives."""
    return item_id < 0 if isinstance(item_id, int) else item_id.startswith(PREFIX)


def are_searches(item_ids: pa.Array) -> pa.Array:
    """Return which ids are such that `read` gives; bool [ids]."""
    if pa.types.is_integer(item_ids.type):
        return pc.less(item_ids, 0)
    return pc.starts_with(item_ids, PREFIX)


def reserved_expression(rules: Rules, item_id: str) -> str:
    """Return SQL of whether an item of the source has an id that only a text may have."""
    if not rules.texts:
        return "false"
    if rules.item_id_type == "int64":
        return f"coalesce({item_id} < 0, false)"
    return f"coalesce(starts_with({item_id}, {quoted(PREFIX)}), false)"


def search_type(rules: Rules) -> str:
    """Return the SQL type of a Search."""
    return f"struct(item_id {SQL_ID_TYPES[rules.item_id_type]}, text varchar, problem varchar)"


def search_expression(rules: Rules, action: str, columns: Mapping[str, str]) -> tuple[str, str]:
    """Return SQL of a row's raw text, and of its Search; null where the action has an item.

    The second needs `add_search_function`.

    Args:
        action: SQL of the row's action.
        columns: Action → the column that holds its text.
    """
    if not columns:
        return "null::varchar", f"null::{search_type(rules)}"
    whens = " ".join(
        f"when {quoted(name)} then {identifier(column)}::varchar"
        for name, column in columns.items()
    )
    text = f"case {action}::varchar {whens} end"
    names = ", ".join(map(quoted, columns))
    return text, (
        f"case when {action}::varchar in ({names}) then search_of({action}::varchar, {text}) end"
    )


def add_search_function(rules: Rules, con: duckdb.DuckDBPyConnection) -> None:
    """Make `read` the SQL function search_of(action, text) of this connection."""
    ids = pa.int64() if rules.item_id_type == "int64" else pa.string()
    kind = pa.struct([("item_id", ids), ("text", pa.string()), ("problem", pa.string())])

    def search_of(actions: pa.Array, texts: pa.Array) -> pa.Array:
        known: dict[tuple[str, str | None], dict[str, object]] = {}
        found = []
        for pair in zip(actions.to_pylist(), texts.to_pylist(), strict=True):
            if pair not in known:
                known[pair] = read(rules.item_id_type, *pair)._asdict()
            found.append(known[pair])
        return pa.array(found, kind)

    with suppress(duckdb.Error):
        con.remove_function("search_of")
    con.create_function(
        "search_of",
        search_of,
        ["VARCHAR", "VARCHAR"],
        search_type(rules),
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )


def searches_query(rules: Rules, layout: Layout) -> str:
    """Return a query of `searches`: none where no action has a text."""
    if rules.texts and layout.searches.exists():
        return f"from {parquet([layout.searches])}"
    kind = SQL_ID_TYPES[rules.item_id_type]
    return (
        f"select null::{kind} as item_id, null::varchar as text, "
        "null::timestamptz as available_at where false"
    )
