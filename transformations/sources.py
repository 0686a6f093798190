"""Events and items from their sources: typed rows, one partition per day, and quarantine."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection as Connection

from transformations import read_so_far as state
from transformations import sql_source
from transformations.attributes import (
    NO_ATTRIBUTES,
    first_of_copies,
    problem_expression,
    struct_of,
    value_expression,
)
from transformations.config import Config
from transformations.duck import TableReport, check, copy, count, parquet, sql
from transformations.errors import InputError, RunFailedError
from transformations.files import replacing
from transformations.ids import id_column
from transformations.layout import (
    Period,
    best_period,
    note_period,
    partition_files,
    period_file,
    period_of,
    period_start,
)
from transformations.quoting import identifier, quoted
from transformations.readers import (
    FILE,
    Files,
    blank,
    find,
    group,
    id_expression,
    list_expression,
    timestamp_expression,
    vector_expression,
)
from transformations.searches import (
    add_search_function,
    reserved_expression,
    search_expression,
    searches_query,
)
from transformations.tables import activity_query

FUTURE = "event_timestamp is in the future"
MALFORMED = "line is malformed"
EVENT_TIMES = ("events.columns.event_timestamp", "events.columns.ingested_at")


def stage_activity(config: Config, con: Connection, as_of: datetime) -> TableReport:
    """Read what is new in the events source into `activity`, and what is refused to `quarantine`.

    An unchanged file is not read again; a table with an incremental column is read from its last
    value on. Reading a row twice changes nothing. A row refused for lying in the future is read
    again from quarantine once its time has come. Only periods that change are rewritten, each as
    a whole. What was read is written down last, so the next run repeats what a killed one missed.

    Returns:
        rows_in counts the rows read; refused, those that went to quarantine, by reason; rows_out,
        the actions that `activity` gained; written, the periods rewritten.

    Raises:
        InputError: the source or one of its columns is missing, or has a wrong type.
        RunFailedError: more than events.max_refused_share of the rows read were refused. They are
            in quarantine; `activity` is unchanged.
    """
    before = state.load(config)
    with _spool(config, "stg_activity") as folder:
        rows_in, read = _judge_source(config, con, as_of, before, folder)
        period = _period(config, con)
        _keep_refused(config, con, period, as_of)
        refused = _counted(con, "select reason from refused")
        _fail_if_too_many(config, rows_in, refused)
        # Before the actions on them: a killed run leaves no action on an unknown text.
        _merge_searches(config, con)
        written, gained = _merge_periods(config, con, period)
    read.periods = state.periods(config)
    state.save(config, read)
    return TableReport("stg_activity", rows_in, gained, refused, written)


def _counted(con: Connection, reasons: str) -> dict[str, int]:
    query = f"select reason, count(*) from ({reasons}) group by reason order by reason"
    return dict(con.execute(query).fetchall())


def _rows_read(con: Connection) -> int:
    return count(con, "select (select count(*) from judged) + (select count(*) from malformed)")


@contextmanager
def _spool(config: Config, table: str) -> Iterator[Path]:
    """Yield an empty folder for a table's rows between the source and their partitions."""
    folder = config.layout.state / f"{table}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judge_source(
    config: Config,
    con: Connection,
    as_of: datetime,
    before: state.ReadSoFar,
    folder: Path,
) -> tuple[int, state.ReadSoFar]:
    """Spool what is new, and make `stg_activity` (accepted) and `refused` of it.

    Returns:
        How many rows were read, and what counts as read once they are written.
    """
    columns = config.events.columns.model_dump() | _attribute_columns(config)
    texts = config.rules.texts
    wanted = {_where(config, key): name for key, name in columns.items()}
    wanted |= {f"actions.{action}.text": name for action, name in texts.items()}
    if texts:
        add_search_function(config.rules, con)
    read = state.ReadSoFar()
    if config.events.is_sql:
        table = sql_source.TableSource(
            key="events",
            url=config.events.source,
            table=config.events.table or "",
            columns=wanted,
            times=dict.fromkeys(EVENT_TIMES, config.events.time_unit),
            incremental=config.events.incremental_column,
        )
        spooled = sql_source.spool(config, table, folder, before.mark)
        read.mark, groups, label = spooled.mark, spooled.groups, quoted(spooled.name)
    else:
        source = config.path(config.events.source)
        # Taken before the files are read, so the next run reads what is appended meanwhile.
        for file in find("events.source", source):
            read.files[str(file)] = [file.stat().st_size, file.stat().st_mtime_ns]
        new = [file for file, seen in read.files.items() if before.files.get(file) != seen]
        groups = group(con, [Path(file) for file in new], wanted)
        base = source if source.is_dir() else source.parent
        label = f"{identifier(FILE)}[{len(str(base)) + 2}:]"

    con.execute("create or replace temp table malformed (line varchar, source varchar)")
    parameters = {"as_of": as_of, "actions": list(config.actions)}
    parts = []
    for number, files in enumerate(groups):
        parts.append(folder / f"judged-{number}.parquet")
        raw = _raw_events(config, files.query, columns, files.columns, label, texts)
        con.execute(f"create or replace temp view raw_events as {raw}")
        _spool_rows(con, "stg_activity", parts[-1], parameters, files)
        if files.delimiter is not None:
            _collect_malformed(con, label)
    again = folder / "again.parquet"
    _judge_again(config, con, again, parameters)

    con.execute(
        f"create or replace temp view stg_activity as from {parquet([*parts, again])} "
        "where reason is null"
    )
    judged = f"from {parquet(parts)}" if parts else f"from {parquet([again])} where false"
    con.execute(f"create or replace temp view judged as {judged}")
    con.execute(f"create or replace temp view refused as {sql('refused')}")
    return _rows_read(con), read


def _raw_events(
    config: Config,
    query: str,
    columns: Mapping[str, str | None],
    kinds: Mapping[str, str],
    source: str,
    texts: Mapping[str, str],
) -> str:
    """Return the query of `raw_events`, which sql/stg_activity.sql judges.

    Args:
        columns: The five columns of an event → their names in `query`.
        kinds: The DuckDB types of the columns of `query`.
        source: SQL for the name of a row's file or table.
        texts: Action without an item → the column of `query` with its text.
    """
    parts = [*_attributes(config, columns, kinds), *_searches(config, columns, kinds, texts)]
    for key, name in columns.items():
        if key in config.rules.attributes:
            continue
        where = f"events.columns.{key}"
        if name is None:
            parts.append(f"null as raw_{key}, null::timestamptz as {key}, true as {key}_is_blank")
            continue
        kind = kinds[name]
        parts.append(f"{identifier(name)} as raw_{key}, {blank(name, kind)} as {key}_is_blank")
        if key in ("member_id", "item_id"):
            typed = id_expression(where, id_column(name, kinds), kind, config.rules.id_types[key])
            parts.append(f"{typed} as {key}")
            if key == "item_id":
                is_reserved = reserved_expression(config.rules, typed)
                parts.append(f"{is_reserved} as item_id_is_reserved")
        elif key in ("event_timestamp", "ingested_at"):
            parts.append(
                f"{timestamp_expression(where, name, kind, config.events.time_unit)} as {key}"
            )
    return f"select {', '.join(parts)}, {source} as source from ({query})"


def _attribute_columns(config: Config) -> dict[str, str]:
    """Return each attribute's column in the source."""
    given = config.events.attributes
    return {name: attribute.column or name for name, attribute in given.items()}


def _where(config: Config, key: str) -> str:
    """Return the key of the configuration that names a column of the events."""
    kind = "attributes" if key in config.rules.attributes else "columns"
    return f"events.{kind}.{key}"


def _attributes(
    config: Config, columns: Mapping[str, str | None], kinds: Mapping[str, str]
) -> list[str]:
    """Return the columns of `raw_events` about attributes: their values, raw, and what is wrong."""
    attributes = config.rules.attributes
    if not attributes:
        return [NO_ATTRIBUTES, "null::varchar as raw_attributes", "null as attribute_problem"]
    names = {name: str(columns[name]) for name in attributes}
    for name, column in names.items():
        if kinds[column].endswith(("]", ")")) and not kinds[column].startswith("DECIMAL"):
            raise InputError(
                f"events.attributes.{name}: expected a {attributes[name].kind} in column "
                f"{column!r}, got {kinds[column]}"
            )
    values = {name: value_expression(attributes[name], names[name]) for name in attributes}
    raw = ", ".join(f"{quoted(name)}: {identifier(names[name])}::varchar" for name in names)
    problems = ", ".join(problem_expression(name, attributes[name], names[name]) for name in names)
    return [
        struct_of(attributes, values),
        f"to_json({{{raw}}})::varchar as raw_attributes",
        f"coalesce({problems}) as attribute_problem",
    ]


def _searches(
    config: Config,
    columns: Mapping[str, str | None],
    kinds: Mapping[str, str],
    texts: Mapping[str, str],
) -> list[str]:
    """Return the columns of `raw_events` about texts: raw, and what was read of them."""
    for action, column in texts.items():
        if kinds[column].endswith(("]", ")")) and not kinds[column].startswith("DECIMAL"):
            raise InputError(
                f"actions.{action}.text: expected a text in column {column!r}, got {kinds[column]}"
            )
    name = identifier(str(columns["action"]))
    raw, search = search_expression(config.rules, name, texts)
    return [f"{raw} as raw_text", f"{search} as search"]


def _spool_rows(
    con: Connection, table: str, file: Path, parameters: Mapping[str, object], source: Files
) -> None:
    """Write the rows of `sql/<table>.sql` to the spool."""
    try:
        copy(con, sql(table), file, parameters, compression="lz4")
    except duckdb.Error as error:
        names = ", ".join(str(path) for path in source.files[:3])
        more = f" and {len(source.files) - 3} more" if len(source.files) > 3 else ""
        raise RunFailedError(f"reading {names}{more} failed: {error}") from error


def _collect_malformed(con: Connection, label: str) -> None:
    """Collect the lines that the CSV reader rejected; it writes one row per error."""
    con.execute(
        f"insert into malformed select line, {label} from ("
        "select distinct file_id, line as number, csv_line as line, "
        f"file_path as {identifier(FILE)} "
        "from malformed_lines inner join malformed_scans using (scan_id, file_id))"
    )
    con.execute("drop table malformed_lines")
    con.execute("drop table malformed_scans")


def _judge_again(
    config: Config, con: Connection, file: Path, parameters: dict[str, object]
) -> None:
    """Judge rows refused as lying in the future once more, and keep those that no longer do."""
    quarantine = _quarantine(config)
    columns = {key: key for key in config.events.columns.model_dump()}
    columns |= {name: name for name in config.rules.attributes}
    again = "".join(
        f", json_extract_string(attributes, {quoted(name)}) as {identifier(name)}"
        for name in config.rules.attributes
    )
    query = f"select *{again} from ({quarantine}) where reason = {quoted(FUTURE)}"
    kinds = dict.fromkeys([*columns, "text"], "VARCHAR")
    texts = dict.fromkeys(config.rules.texts, "text")
    raw = _raw_events(config, query, columns, kinds, "source", texts)
    con.execute(f"create or replace temp view raw_events as {raw}")
    copy(con, f"select * from ({sql('stg_activity')}) where reason is null", file, parameters)


def _quarantine(config: Config) -> str:
    """Return a query of all rows in quarantine."""
    files = partition_files(config.layout.quarantine)
    names = (
        *("member_id", "item_id", "action", "event_timestamp", "ingested_at", "attributes"),
        "text",
    )
    if files:
        # Those of before there were attributes, and texts, have no such column.
        found = (
            "select null::varchar as attributes, null::varchar as text where false "
            f"union all by name from {parquet(files, 'union_by_name = true')}"
        )
        return f"select {', '.join(names)}, line, reason, source from ({found})"
    columns = ", ".join(f"null::varchar as {name}" for name in (*names, "line", "reason", "source"))
    return f"select * from (select {columns}) where false"


def _keep_refused(config: Config, con: Connection, period: Period, as_of: datetime) -> None:
    """Add refused rows that quarantine does not hold yet, under the day of `as_of`."""
    con.execute(
        f"create or replace temp view quarantine as select * from ({_quarantine(config)}) "
        "where source in (select source from refused)"
    )
    con.execute(f"create or replace temp table added as {sql('quarantine')}")
    if count(con, "select count(*) from added") == 0:
        return
    folder = config.layout.quarantine
    kept = period_of(folder)
    if kept is None:
        kept = period
        note_period(folder, period)
    file = period_file(folder, period_start(as_of.astimezone(UTC).date(), kept))
    existing = f"union all by name from {parquet([file])}" if file.exists() else ""
    with replacing(file) as path:
        copy(con, f"select * from (from added {existing}) order by all", path)
        con.execute(f"create or replace temp view quarantine as from {parquet([path])}")
        check(con, "quarantine", {})


def _fail_if_too_many(config: Config, rows_in: int, refused: dict[str, int]) -> None:
    total = sum(refused.values())
    allowed = config.events.max_refused_share
    if total > allowed * rows_in:
        listed = ", ".join(f"{reason}: {rows:,}" for reason, rows in refused.items())
        raise RunFailedError(
            f"{total:,} of the {rows_in:,} rows read are refused, which is more than the share of "
            f"{allowed:.1%} that events.max_refused_share allows ({listed}). The rows are in "
            f"{config.layout.quarantine}; nothing else was written. Correct the source, or "
            "events.columns, events.time_unit, the id types or actions in "
            f"{config.file.name}, and run again"
        )


def _merge_searches(config: Config, con: Connection) -> None:
    """Add the texts of `stg_activity` to `searches`, with when each was first seen."""
    if not config.rules.texts:
        return
    earlier = searches_query(config.rules, config.layout)
    con.execute(f"create or replace temp view searches as {earlier}")
    with replacing(config.layout.searches) as path:
        copy(con, sql("searches"), path)
        con.execute(f"create or replace temp view searches as from {parquet([path])}")
        check(con, "searches", {})


def _merge_periods(config: Config, con: Connection, period: Period) -> tuple[tuple[str, ...], int]:
    """Merge `stg_activity` into its periods; return those rewritten and the actions gained."""
    query = "select distinct date_trunc($period, day)::date from stg_activity order by all"
    rows = con.execute(query, {"period": period}).fetchall()
    written, gained = [], 0
    for (start,) in rows:
        more = _merge_period(config, con, period, start)
        if more is not None:
            written.append(start.isoformat())
            gained += more
    return tuple(written), gained


def _merge_period(config: Config, con: Connection, period: Period, start: date) -> int | None:
    """Rewrite a period if it changes; return how many actions it gained, or None."""
    file = period_file(config.layout.activity, start)
    existing = activity_query(config, con, [file] if file.exists() else [])
    con.execute(f"create or replace temp view activity as {existing}")
    parameters = {"period": period, "start": start}
    attributes = config.rules.attributes
    con.execute(
        "create or replace temp table activity_of_period as "
        f"select * exclude (copies){first_of_copies(attributes)} from ({sql('activity')})",
        parameters,
    )
    # A merge only adds actions, and only lowers ingested_at or replaces a null one or a missing
    # attribute. So a period is unchanged exactly if these sums are.
    sums = "select count(*), count(ingested_at), sum(epoch_us(ingested_at)::hugeint)"
    hashed = f"bit_xor(hash({', '.join(map(identifier, attributes))}))" if attributes else "0"
    flat = "".join(f", attributes[{quoted(name)}] as {identifier(name)}" for name in attributes)
    before, after = (
        con.execute(
            f"{sums}, {hashed} from (select * exclude (attributes){flat} from activity)"
        ).fetchone(),
        con.execute(f"{sums}, {hashed} from activity_of_period").fetchone(),
    )
    if before == after or before is None or after is None:
        return None
    check(con, "stg_activity", parameters)
    with replacing(file) as path:
        copy(con, "from activity_of_period", path)
    return after[0] - before[0]


def _period(config: Config, con: Connection) -> Period:
    """Return how activity is partitioned; chosen and noted by the first rows that are read."""
    activity = config.layout.activity
    known = period_of(activity)
    if known is not None:
        return known
    query = "select count(*), date_diff('day', min(day), max(day)) + 1 from stg_activity"
    ((rows, days),) = con.execute(query).fetchall()
    period = best_period(rows, days or 0)
    if rows:
        note_period(activity, period)
    return period


def stage_items(config: Config, con: Connection, as_of: datetime) -> TableReport:
    """Read the items source into `stg_items`, what item vectors are made from.

    One row per item_id and available_at (1970 where the configuration names no column), with
    either `embedding` FLOAT[dim], or `text` (the text columns, joined by a space) and `categories`
    VARCHAR[] ("<column>=<value>"). Of rows that differ only in these, the smallest is kept. An item
    available only after `as_of` is left for a later run. Each text of `searches` is an item of the
    kind `search`, available since it was first seen.

    Returns:
        refused counts the rows without a usable id, time or vector, by reason; they are not kept.

    Raises:
        InputError: the source or one of its columns is missing, or has a wrong type.
        RunFailedError: there are rows, but all are refused.
    """
    items = config.items
    wanted: dict[str, str | None] = {
        "items.item_id": items.item_id,
        "items.embedding": items.embedding,
        "items.available_at": items.available_at,
        "items.available_until": items.available_until,
        "items.kind": items.kind,
        **{f"items.text.{number}": name for number, name in enumerate(items.text)},
        **{f"items.categories.{number}": name for number, name in enumerate(items.categories)},
    }
    con.execute("create or replace temp table malformed (line varchar, source varchar)")
    with _spool(config, "stg_items") as folder:
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
            groups = group(con, find("items.source", config.path(items.source)), wanted)
        parts = []
        for number, files in enumerate(groups):
            parts.append(folder / f"judged-{number}.parquet")
            con.execute(f"create or replace temp view raw_items as {_raw_items(config, files)}")
            _spool_rows(con, "judged_items", parts[-1], {"as_of": as_of}, files)
            if files.delimiter is not None:
                _collect_malformed(con, identifier(FILE))
        con.execute(f"create or replace temp view judged as from {parquet(parts)}")
        refused = _counted(
            con,
            "select reason from judged where reason is not null "
            f"union all select {quoted(MALFORMED)} from malformed",
        )
        rows_in = _rows_read(con)
        if rows_in and sum(refused.values()) == rows_in:
            listed = ", ".join(f"{reason}: {rows:,}" for reason, rows in refused.items())
            raise RunFailedError(
                f"none of the {rows_in:,} items of {items.source} can be used ({listed}); "
                f"correct the source, or `items`, `item_id_type` and `dim` in {config.file}"
            )
        con.execute(
            "create or replace temp view judged_searches as select item_id, available_at, "
            "{'text': text, 'categories': []::varchar[]} as content "
            f"from ({searches_query(config.rules, config.layout)}) where available_at <= "
            f"{quoted(as_of.isoformat())}::timestamptz"
            if items.embedding is None
            else "create or replace temp view judged_searches as from judged where false"
        )
        with replacing(config.layout.staged_items) as path:
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
    if items.embedding is not None:
        vector = vector_expression("items.embedding", items.embedding, kinds[items.embedding])
        content, has_content = f"{{'embedding': {vector}}}", f"len({vector}) = {config.dim}"
    else:
        texts = ", ".join(f"{identifier(name)}::varchar" for name in items.text) or "''"
        categories = ", ".join(
            f"list_transform({list_expression(name, kinds[name])}, "
            f"lambda value: {quoted(name + '=')} || trim(value))"
            for name in items.categories
        )
        content = (
            f"{{'text': concat_ws(' ', {texts}), 'categories': "
            f"flatten([{categories}]::varchar[][])}}"
        )
        has_content = "true"
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
