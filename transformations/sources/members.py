"""The members source as `members`: what is known of a member besides what it did."""

from datetime import datetime

from duckdb import DuckDBPyConnection as Connection

from transformations.attributes import problem_expression, value_expression
from transformations.config import Config
from transformations.duck import TableReport, check, copy, count, parquet, sql
from transformations.errors import InputError, RunFailedError
from transformations.ids import id_column
from transformations.layout import period_of
from transformations.quoting import identifier, quoted
from transformations.readers import blank, id_expression, timestamp_expression
from transformations.rules import Attribute
from transformations.seals import sealing
from transformations.sources import sql_source
from transformations.sources.files import Files, find, group
from transformations.sources.quarantine import keep_refused
from transformations.sources.spool import collect_malformed, counted, rows_read, spool, spool_rows
from transformations.stats.columns import profile_columns
from transformations.tombstones import without_forgotten


def stage_members(config: Config, con: Connection, as_of: datetime) -> TableReport:
    """Read the members source into `members`; what is refused goes to `quarantine`.

    One row per member_id and available_at (1970 where the configuration names no column), with a
    double of each column in `members.numeric` and a text of each in `members.categorical`, null
    where it is missing. Of rows that differ only in these, the smallest is kept. A row available
    only after `as_of` is left for a later run.

    Returns:
        refused counts the rows in quarantine, by reason.

    Raises:
        InputError: the source or one of its columns is missing, or has a wrong type.
        RunFailedError: there are rows, but all are refused.
    """
    members = config.members
    wanted: dict[str, str | None] = {
        "members.id": members.id,
        "members.available_at": members.available_at,
        **{f"members.numeric.{number}": name for number, name in enumerate(members.numeric)},
        **{
            f"members.categorical.{number}": name for number, name in enumerate(members.categorical)
        },
    }
    con.execute("create or replace temp table malformed (line varchar, source varchar)")
    with spool(config, "members") as folder:
        if members.is_sql:
            table = sql_source.TableSource(
                key="members",
                url=members.source,
                table=members.table or "",
                columns=wanted,
                times={"members.available_at": "timestamp"},
            )
            groups = sql_source.spool(config, table, folder).groups
        else:
            source = config.source("members.source", members.source)
            groups = group(con, find("members.source", source), wanted, source, folder)
            base = source if source.is_dir() else source.parent
        parts = []
        for number, files in enumerate(groups):
            # So that no file of events is meant.
            label = (
                quoted(f"members: {members.table}")
                if members.is_sql
                else f"'members: ' || {identifier(files.file_column)}[{len(str(base)) + 2}:]"
            )
            parts.append(folder / f"judged-{number}.parquet")
            raw = _raw_members(config, files, label)
            con.execute(f"create or replace temp view raw_members as {raw}")
            spool_rows(con, "judged_members", parts[-1], {"as_of": as_of}, files)
            if files.layout is not None:
                collect_malformed(con, files, label)
        if not parts:
            raise RunFailedError(f"members.source: {members.source} holds no row")
        every = parquet(parts)
        remembered = without_forgotten(config, con, every)
        con.execute(f"create or replace temp view judged as from {every} as judged{remembered}")
        con.execute(f"create or replace temp view refused as {sql('refused_members')}")
        keep_refused(config, con, period_of(config.layout.activity) or "day", as_of)
        refused = counted(con, "select reason from refused")
        rows_in = rows_read(con)
        if rows_in and sum(refused.values()) == rows_in:
            listed = ", ".join(f"{reason}: {rows:,}" for reason, rows in refused.items())
            raise RunFailedError(
                f"none of the {rows_in:,} members of {members.source} can be used ({listed}); the "
                f"rows are in {config.layout.quarantine}. Correct the source, or `members` and "
                f"`member_id_type` in {config.file}"
            )
        with sealing(config.layout.members, "members") as path:
            copy(con, sql("members"), path)
            con.execute(f"create or replace temp view members as from {parquet([path])}")
            check(con, "members", {"as_of": as_of})
            rows_out = count(con, "select count(*) from members")
    return TableReport("members", rows_in, rows_out, refused)


def _raw_members(config: Config, files: Files, label: str) -> str:
    """Return the query of `raw_members`, which sql/judged_members.sql judges."""
    members, kinds = config.members, files.columns
    available_at, raw_available_at = "timestamptz '1970-01-01'", "null::varchar"
    if members.available_at is not None:
        key, column = "members.available_at", members.available_at
        available_at = timestamp_expression(key, column, kinds[column], "timestamp")
        raw_available_at = f"{identifier(column)}::varchar"
    columns = members.columns
    for column in columns.values():
        if kinds[column].endswith(("]", ")")) and not kinds[column].startswith("DECIMAL"):
            raise InputError(
                f"members: expected one number or text in column {column!r}, got {kinds[column]}"
            )
    attributes = {
        name: Attribute("number" if kind == "number" else "category")
        for name, kind in profile_columns(config).items()
    }
    fields = ", ".join(
        f"{quoted(name)}: {value_expression(attribute, columns[name])}"
        for name, attribute in attributes.items()
    )
    given = ", ".join(f"{quoted(name)}: {identifier(columns[name])}::varchar" for name in columns)
    problems = ", ".join(
        problem_expression(name, attribute, columns[name]) for name, attribute in attributes.items()
    )
    kind = kinds[members.id]
    member_id = id_expression(
        "members.id", id_column(members.id, kinds), kind, config.member_id_type
    )
    return (
        f"select {member_id} as member_id, {blank(members.id, kind)} as member_id_is_blank, "
        f"{identifier(members.id)}::varchar as raw_member_id, {available_at} as available_at, "
        f"{raw_available_at} as raw_available_at, {{{fields}}} as content, "
        f"to_json({{{given}}})::varchar as raw_content, coalesce({problems}) as problem, "
        f"{label} as source from ({files.query})"
    )
