"""The items source as `stg_items`, what item vectors are made from."""

from datetime import datetime

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import TableReport, check, copy, count, parquet, sql
from transformations.errors import RunFailedError
from transformations.ids import id_column
from transformations.quoting import identifier, quoted
from transformations.readers import (
    blank,
    id_expression,
    list_expression,
    timestamp_expression,
    vector_expression,
)
from transformations.seals import sealing
from transformations.searches import (
    reserved_expression,
    searches_query,
)
from transformations.sources import sql_source
from transformations.sources.files import Files, find, group
from transformations.sources.spool import (
    MALFORMED,
    collect_malformed,
    counted,
    rows_read,
    spool,
    spool_rows,
)


def stage_items(config: Config, con: Connection, as_of: datetime) -> TableReport:
    """Read the items source into `stg_items`, what item vectors are made from.

    One row per item_id and available_at (1970 where the configuration names no column), with
    `text` (the text columns, joined by a space) and `categories` VARCHAR[] ("<column>=<value>"),
    and, where `items.embedding` names columns, `vectors` FLOAT[dim][], one of each, null where it
    is no list of dim finite numbers. Of rows that differ only in these, the smallest is kept. An
    item available only after `as_of` is left for a later run. Each text of `searches` is an item of
    the kind `search`, available since it was first seen.

    Returns:
        refused counts the rows without a usable id or time, by reason, and where there is no text
        those without any usable vector; they are not kept.

    Raises:
        InputError: the source or one of its columns is missing, or has a wrong type.
        RunFailedError: there are rows, but all are refused.
    """
    items = config.items
    wanted: dict[str, str | None] = {
        "items.item_id": items.item_id,
        "items.available_at": items.available_at,
        "items.available_until": items.available_until,
        "items.kind": items.kind,
        **{f"items.embedding.{number}": name for number, name in enumerate(items.embedding)},
        **{f"items.text.{number}": name for number, name in enumerate(items.text)},
        **{f"items.categories.{number}": name for number, name in enumerate(items.categories)},
    }
    con.execute("create or replace temp table malformed (line varchar, source varchar)")
    with spool(config, "stg_items") as folder:
        if items.is_sql:
            times = ("items.available_at", "items.available_until")
            table = sql_source.TableSource(
                key="items",
                url=items.source,
                table=items.table or "",
                columns=wanted,
                times=dict.fromkeys(times, "timestamp"),
            )
            groups = sql_source.spool(config, table, folder).groups
        else:
            source = config.source("items.source", items.source)
            groups = group(con, find("items.source", source), wanted, source, folder)
        parts = []
        for number, files in enumerate(groups):
            parts.append(folder / f"judged-{number}.parquet")
            con.execute(f"create or replace temp view raw_items as {_raw_items(config, files)}")
            spool_rows(con, "judged_items", parts[-1], {"as_of": as_of}, files)
            if files.layout is not None:
                collect_malformed(con, files, identifier(files.file_column))
        con.execute(f"create or replace temp view judged as from {parquet(parts)}")
        refused = counted(
            con,
            "select reason from judged where reason is not null "
            f"union all select {quoted(MALFORMED)} from malformed",
        )
        rows_in = rows_read(con)
        if rows_in and sum(refused.values()) == rows_in:
            listed = ", ".join(f"{reason}: {rows:,}" for reason, rows in refused.items())
            raise RunFailedError(
                f"none of the {rows_in:,} items of {items.source} can be used ({listed}); "
                f"correct the source, or `items`, `item_id_type` and `dim` in {config.file}"
            )
        no_vectors = ", 'vectors': []::float[][]" if items.embedding else ""
        con.execute(
            "create or replace temp view judged_searches as select item_id, available_at, "
            f"{{'text': text, 'categories': []::varchar[]{no_vectors}}} as content "
            f"from ({searches_query(config.rules, config.layout)}) where available_at <= "
            f"{quoted(as_of.isoformat())}::timestamptz"
            if items.has_text
            else "create or replace temp view judged_searches as from judged where false"
        )
        with sealing(config.layout.staged_items, "stg_items") as path:
            copy(con, sql("stg_items"), path)
            con.execute(f"create or replace temp view stg_items as from {parquet([path])}")
            check(con, "stg_items", {"as_of": as_of})
            rows_out = count(con, "select count(*) from stg_items")
    return TableReport("stg_items", rows_in, rows_out, refused)


def _raw_items(config: Config, files: Files) -> str:
    """Return the query of `raw_items`, which sql/judged_items.sql judges."""
    items, kinds = config.items, files.columns
    available_at = "timestamptz '1970-01-01'"
    if items.available_at is not None:
        kind = kinds[items.available_at]
        available_at = timestamp_expression(
            "items.available_at", items.available_at, kind, "timestamp"
        )
    until, until_is_blank = "null::timestamptz", "true"
    if items.available_until is not None:
        kind, key = kinds[items.available_until], "items.available_until"
        until = timestamp_expression(key, items.available_until, kind, "timestamp")
        until_is_blank = blank(items.available_until, kind)
    kind_of_item = "null::varchar"
    if items.kind is not None:
        kind_of_item = f"nullif(trim({identifier(items.kind)}::varchar), '')"
    vectors = [
        f"case when len({vector}) = {config.dim} then {vector} end"
        for vector in (
            vector_expression(f"items.embedding.{number}", name, kinds[name])
            for number, name in enumerate(items.embedding)
        )
    ]
    vectors_list = f"[{', '.join(vectors)}]::float[][]"
    texts = ", ".join(f"{identifier(name)}::varchar" for name in items.text) or "''"
    categories = ", ".join(
        f"list_transform({list_expression(name, kinds[name])}, "
        f"lambda value: {quoted(name + '=')} || trim(value))"
        for name in items.categories
    )
    given = f", 'vectors': {vectors_list}" if items.embedding else ""
    content = (
        f"{{'text': concat_ws(' ', {texts}), 'categories': "
        f"flatten([{categories}]::varchar[][]){given}}}"
    )
    usable = f"len(list_filter({vectors_list}, lambda value: value is not null))"
    has_content = "true" if items.has_text else f"{usable} > 0"
    kind = kinds[items.item_id]
    own = id_column(items.item_id, kinds)
    item_id = id_expression("items.item_id", own, kind, config.item_id_type)
    return (
        f"select {item_id} as item_id, "
        f"{blank(items.item_id, kind)} as item_id_is_blank, "
        f"{reserved_expression(config.rules, item_id)} as item_id_is_reserved, "
        f"{kind_of_item} as kind, "
        f"{available_at} as available_at, {until} as available_until, "
        f"{until_is_blank} as available_until_is_blank, "
        f"{content} as content, {has_content} as has_content "
        f"from ({files.query})"
    )
