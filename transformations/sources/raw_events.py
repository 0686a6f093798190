"""A source's columns as those of `raw_events`, raw and typed, for sql/stg_activity.sql."""

from collections.abc import Mapping

from transformations.attributes import (
    NO_ATTRIBUTES,
    problem_expression,
    struct_of,
    value_expression,
)
from transformations.config import Config
from transformations.errors import InputError
from transformations.ids import id_column
from transformations.quoting import identifier, quoted
from transformations.readers import (
    blank,
    id_expression,
    timestamp_expression,
)
from transformations.searches import (
    reserved_expression,
    search_expression,
)


def raw_events(
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


def attribute_columns(config: Config) -> dict[str, str]:
    """Return each attribute's column in the source."""
    given = config.events.attributes
    return {name: attribute.column or name for name, attribute in given.items()}


def where_configured(config: Config, key: str) -> str:
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
