"""`activity show`: a member's last actions, and its vectors as the online store returns them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.lines import by_space
from operations.composition import served_lines
from operations.ledger import Ledger
from pipelines.nearest import DescribedItems
from pipelines.progress import plain_table, working
from serving.publish import open_store
from stores.ids import IdError, ids_of
from transformations import names
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.item_kinds import predicted_kinds
from transformations.layout import partitions, snapshot_files
from transformations.names import Space
from transformations.quoting import one_file

SHOWN_ACTIONS = 8
NEAREST = 3


def show_member(console: Console, config: Config, member: int | str, *, full: bool = False) -> None:
    """Show a member's last actions and its vectors as the online store returns them.

    Args:
        member: An id, also as text; converted as by every other reader.
        full: Whole texts of the items, not the beginning that fits a line.

    Raises:
        InputError: not a member's id, no snapshot was built, or the newest one has no such member.
    """
    try:
        (member,) = ids_of([member], config.member_id_type, "member_id")
    except IdError as error:
        raise InputError(str(error)) from None
    built = partitions(config.layout.sequences)
    if not built:
        raise InputError(f"no snapshot was built yet into {config.data}; first: activity run")
    newest = Ledger(config).newest_published() or built[-1]
    with working(f"reading member {member}"):
        with connect(config) as con:
            actions = _last_actions(config, con, newest, member)
            example = someone(config, con, newest)
            of = by_space(config, served_lines(config))
            items = {own.space: DescribedItems(own, con, newest) for own, _ in of}
        item = actions[0][2] if actions else None
        values = {} if actions is None else _online_values(config, member, item)
    if actions is None:
        raise InputError(
            f"member {member} is not in the snapshot of {newest:%Y-%m-%d}: no action in the "
            f"{config.window.days} days before it; one that is: {example}"
        )
    table = plain_table(f"Member {member}: last actions")
    table.expand = True
    for name in ("when (UTC)", "action", "item"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", ratio=1, no_wrap=not full, overflow="fold" if full else "ellipsis")
    for moment, action, acted_on, what in actions:
        what = " ".join((what or "").split())
        table.add_row(f"{moment:%Y-%m-%d %H:%M}", action, str(acted_on), what)
    console.print(table)
    console.print()
    console.print(_vectors_table(values, member, item))
    console.print()
    console.print(_nearest_table(config, values, member, items))


def someone(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> int | str | None:
    """Pick a member to show: every kind of action, then the most; ties by id."""
    kinds = " + ".join(f"least({names.count_column(name)}, 1)" for name in config.actions)
    row = con.execute(
        f"select member_id from read_parquet($path) where n_actions > 0 "
        f"order by {kinds} desc, n_actions desc, member_id limit 1",
        {"path": _sequences(config, as_of)},
    ).fetchone()
    return None if row is None else row[0]


def _sequences(config: Config, as_of: datetime) -> list[str]:
    return [one_file(file) for file in snapshot_files(config.layout.sequences, as_of)]


def _last_actions(
    config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime, member: int | str
) -> list[tuple[datetime, str, int | str, str | None]] | None:
    """Return (time, action, item, text), newest first; None for a member without a row."""
    path = _sequences(config, as_of)
    con.execute(
        "create or replace temp table shown as select * from read_parquet($path) "
        "where member_id = $member",
        {"path": path, "member": member},
    )
    if not con.execute("select 1 from shown").fetchone():
        return None
    items = config.layout.staged_items
    what = "null"
    if config.items.has_text:
        values = "list_transform(categories, lambda c: c[instr(c, '=') + 1:])"
        what = f"arg_max(concat_ws(' · ', text, array_to_string({values}, ', ')), available_at)"
    return con.execute(
        "with actions as (select unnest(item_ids) as item_id, unnest(actions) as action, "
        "unnest(event_timestamps) as event_timestamp, "
        "generate_subscripts(item_ids, 1) as position from shown), "
        f"texts as (select item_id, {what} as text from read_parquet($items) group by item_id) "
        "select event_timestamp, action, actions.item_id, text from actions "
        "left join texts using (item_id) order by position desc limit $count",
        {"items": one_file(items), "count": SHOWN_ACTIONS},
    ).fetchall()


def _online_values(
    config: Config, member: int | str, item: int | str | None
) -> dict[str, dict[str, Any]]:
    """Return service → feature → value, as the online store answers."""
    store = open_store(config)
    found = {}
    for aggregator in served_lines(config):
        answer = store.get_online_features(
            features=store.get_feature_service(aggregator.service),
            entity_rows=[
                {"member_id": member, "item_id": absent_item(config) if item is None else item}
            ],
        ).to_dict()
        found[aggregator.service] = {
            name: value
            for name, (value,) in sorted(answer.items(), key=lambda pair: _rank(pair[0]))
            if name not in ("member_id", "item_id")
        }
    return found


def absent_item(config: Config) -> int | str:
    """Return an id that no item has, for a service that is asked about a member alone."""
    return "" if config.item_id_type == "string" else -1


def _vectors_table(
    values: dict[str, dict[str, Any]], member: int | str, item: int | str | None
) -> Table:
    title = f"Member {member}: as the online store returns it"
    table = plain_table(title + (f", matched with item {item}" if item is not None else ""))
    for name in ("feature", "value"):
        table.add_column(name, no_wrap=True)
    for service, features in values.items():
        table.add_row(Text(service, "bold"), "")
        for name, value in features.items():
            table.add_row(f"  {name}", show_value(value))
    return table


def _nearest_table(
    config: Config,
    values: dict[str, dict[str, Any]],
    member: int | str,
    items: dict[Space, DescribedItems],
) -> Table:
    table = plain_table(f"Member {member}: the items nearest to each vector")
    table.expand = True
    table.add_column("vector", no_wrap=True)
    table.add_column("nearest items", ratio=1, no_wrap=True, overflow="ellipsis")
    for aggregator in served_lines(config):
        kinds = predicted_kinds(config, aggregator.predicted(config))
        of_space = items[aggregator.config_of(config).space]
        table.add_row(Text(aggregator.service, "bold"), f"by {of_space.similarity}")
        for name in aggregator.vectors(config):
            value = values[aggregator.service].get(name)
            vector = np.zeros(0, np.float32) if value is None else np.asarray(value, np.float32)
            found = of_space.nearest(vector, NEAREST, kinds)
            table.add_row(f"  {name}", "\n".join(map(str, found)) or "none: no such action")
    return table


def _rank(feature: str) -> tuple[int, str]:
    """Order features for the eye: the member's vectors, its counts, the match, the item."""
    if feature.endswith("_embedding"):
        return 0, feature
    if feature.startswith("n_") or feature == "last_action_at":
        return 1, feature
    measures = names.MEASURES["cosine"]  # all that there are
    return (2 if feature.startswith(measures) else 3), feature


def show_value(value: Any) -> str:
    """Write a feature's value in one short line.

    >>> show_value([0.5, -0.25, 0.125, 0.0])
    '[+0.500 -0.250 … 4 floats] |v| 0.573'
    """
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{round(value, 4) + 0.0:+.4f}"  # + 0.0: a tiny negative number is no -0.0000
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        vector = np.asarray(value, dtype=np.float32)
        head = " ".join(f"{number:+.3f}" for number in vector[:2])
        return f"[{head} … {vector.size} floats] |v| {float(np.linalg.norm(vector)):.3f}"
    return str(value)
