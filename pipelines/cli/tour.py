"""What a run shows of itself: a member, its vectors, a training join, and where all of it lies."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.catalog import AGGREGATORS
from operations.ledger import Ledger
from pipelines.progress import number, stage_table
from serving.publish.feast_store import open_store
from transformations import names
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import part_files, partition, partitions

SHOWN_ACTIONS = 8
SHOWN_LABELS = 5


def guide(console: Console, config: Config, as_of: datetime) -> None:
    """Show one member, a training join, where everything lies and what to type next."""
    with connect(config) as con:
        member = _someone(config, con, as_of)
    if member is None:
        console.print("\nNo member acted in this window, so there is no one to show.")
    else:
        console.print()
        show_member(console, config, member)
        console.print()
        _show_join(console, config, as_of)
    console.print()
    _show_places(console, config)
    console.print()
    _show_next(console, member)


def show_member(console: Console, config: Config, member: int | str) -> None:
    """Show a member's last actions and its vectors as the online store returns them.

    Raises:
        InputError: no snapshot was built, or the newest one has no such member.
    """
    built = partitions(config.layout.sequences)
    if not built:
        raise InputError(f"no snapshot was built yet into {config.data}; first: activity run")
    newest = Ledger(config).newest_published() or built[-1]
    with connect(config) as con:
        actions = _last_actions(config, con, newest, member)
        example = _someone(config, con, newest)
    if actions is None:
        raise InputError(
            f"member {member} is not in the snapshot of {newest:%Y-%m-%d}: no action in the "
            f"{config.window.days} days before it; one that is: {example}"
        )
    table = Table(title=f"Member {member}: last actions", title_justify="left", header_style="bold")
    for name in ("when (UTC)", "action", "item", "what"):
        table.add_column(name)
    for moment, action, acted_on, what in actions:
        table.add_row(f"{moment:%Y-%m-%d %H:%M}", action, str(acted_on), escape(what or ""))
    console.print(table)
    console.print()
    item = actions[0][2] if actions else None
    console.print(_vectors_table(config, member, item))


def status(console: Console, config: Config) -> None:
    """Show the last runs, what is staged and refused, the snapshots, and what is online."""
    ledger = Ledger(config)
    runs = ledger.last_runs()
    table = Table(title="Last runs", title_justify="left", header_style="bold")
    for name in ("run", "command", "as of", "started (UTC)", "published (UTC)", "status", "error"):
        table.add_column(name)
    for run in runs:
        times = [(run[key] or "")[:16] for key in ("as_of", "started_at", "published_at")]
        error = escape((run["error"] or "").splitlines()[0] if run["error"] else "")
        table.add_row(str(run["run_id"]), run["command"], *times, run["status"], error)
    console.print(table)
    staged = [run for run in runs if run["stages"]]
    if staged:
        console.print()
        console.print(
            stage_table(
                (s["stage"], s["rows_in"], s["rows_out"], s["refused"], s["seconds"])
                for s in staged[0]["stages"]
            )
        )
    console.print()
    with connect(config) as con:
        console.print(_holdings(config, con))
        refused = _refused(config, con)
    if refused.row_count:
        console.print()
        console.print(refused)
    newest = ledger.newest_published()
    console.print()
    console.print(
        "Nothing is online yet."
        if newest is None
        else f"Online: the snapshot of {newest:%Y-%m-%d %H:%M} UTC."
    )


def parse_id(config: Config, text: str) -> int | str:
    """Return a member id as typed by the user in the type that the configuration says.

    Raises:
        InputError: ids are int64 and the text is no whole number.
    """
    if config.id_type == "string":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"expected a whole number (id_type is int64), got {text!r}") from None


def _someone(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> int | str | None:
    """Pick a member to show: every kind of action, then the most; ties by id."""
    kinds = " + ".join(f"least({names.count_column(name)}, 1)" for name in config.actions)
    row = con.execute(
        f"select member_id from read_parquet($path) where n_actions > 0 "
        f"order by {kinds} desc, n_actions desc, member_id limit 1",
        {"path": str(partition(config.layout.sequences, as_of))},
    ).fetchone()
    return None if row is None else row[0]


def _last_actions(
    config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime, member: int | str
) -> list[tuple[datetime, str, int | str, str | None]] | None:
    """Return (time, action, item, text), newest first; None for a member without a row."""
    path = str(partition(config.layout.sequences, as_of))
    con.execute(
        "create or replace temp table shown as select * from read_parquet($path) "
        "where member_id = $member",
        {"path": path, "member": member},
    )
    if not con.execute("select 1 from shown").fetchone():
        return None
    items = config.layout.staged_items
    what = "null"
    if not config.items.embedding:
        values = "list_transform(categories, lambda c: c[instr(c, '=') + 1:])"
        what = f"arg_max(concat_ws(' · ', text, array_to_string({values}, ', ')), available_at)"
    return con.execute(
        "with actions as (select unnest(item_ids) as item_id, unnest(actions) as action, "
        "unnest(event_timestamps) as event_timestamp, "
        "generate_subscripts(item_ids, 1) as position from shown), "
        f"texts as (select item_id, {what} as text from read_parquet($items) group by item_id) "
        "select event_timestamp, action, actions.item_id, text from actions "
        "left join texts using (item_id) order by position desc limit $count",
        {"items": str(items), "count": SHOWN_ACTIONS},
    ).fetchall()


def _vectors_table(config: Config, member: int | str, item: int | str | None) -> Table:
    title = f"Member {member}: as the online store returns it"
    table = Table(
        title=title + (f", matched with item {item}" if item is not None else ""),
        title_justify="left",
        header_style="bold",
    )
    for name in ("service", "feature", "value"):
        table.add_column(name)
    store = open_store(config)
    absent: int | str = "" if config.id_type == "string" else -1
    for aggregator in AGGREGATORS:
        answer = store.get_online_features(
            features=store.get_feature_service(aggregator.service),
            entity_rows=[{"member_id": member, "item_id": absent if item is None else item}],
        ).to_dict()
        service: str = aggregator.service
        for name, (value,) in sorted(answer.items(), key=lambda pair: _rank(pair[0])):
            if name in ("member_id", "item_id"):
                continue
            table.add_row(service, name, show_value(value))
            service = ""
        table.add_section()
    return table


def _rank(feature: str) -> tuple[int, str]:
    """Order features for the eye: the member's vectors, its counts, the match, the item."""
    if feature.endswith("_embedding"):
        return 0, feature
    if feature.startswith("n_") or feature == "last_action_at":
        return 1, feature
    return (2 if feature.startswith(("cosine", "dot")) else 3), feature


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


def _show_join(console: Console, config: Config, as_of: datetime) -> None:
    """Show the first rows of a training set: labels joined with what was readable at their time."""
    labels = _labels(config, as_of)
    if labels.empty:
        console.print("No action lies in the last days, so there is no label to join.")
        return
    aggregator = AGGREGATORS[-1]
    store = open_store(config)
    joined = store.get_historical_features(
        entity_df=labels,
        features=store.get_feature_service(aggregator.service),
        filter_by_created_timestamp=True,
    ).to_df()
    joined = joined.sort_values(["event_timestamp", "member_id"])
    vector = next(iter(aggregator.vectors(config)))
    match = next(name for name in joined.columns if name.startswith("cosine"))
    table = Table(
        title=f"A training set: {len(labels)} actions joined with {aggregator.service},\n"
        "each with what could be read at its time",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    shown = ["member_id", "item_id", "event_timestamp", "action", "n_actions", vector, match]
    for name in ["member", "item", "when (UTC)", "action", "n", vector, match]:
        table.add_column(name, no_wrap=True)
    for member, item, moment, action, count, values, fit in joined[shown].itertuples(index=False):
        head = "null" if values is None else " ".join(f"{x:+.2f}" for x in values[:2]) + " …"
        when = f"{moment:%m-%d %H:%M}"
        table.add_row(str(member), str(item), when, action, str(count), head, show_value(fit))
    console.print(table)


def _labels(config: Config, as_of: datetime) -> pd.DataFrame:
    """Draw a few actions of the last three days, the same ones each time."""
    with connect(config) as con:
        return con.execute(
            "select member_id, item_id, action, event_timestamp from read_parquet($path, "
            "hive_partitioning = false) where event_timestamp >= $since and event_timestamp < "
            "$until order by md5(concat(member_id, item_id, event_timestamp)) limit $count",
            {
                "path": str(config.layout.activity / "*" / "*.parquet"),
                "since": as_of - timedelta(days=3),
                "until": as_of,
                "count": SHOWN_LABELS,
            },
        ).df()


def _show_places(console: Console, config: Config) -> None:
    table = Table(title="Where everything lies", title_justify="left", header_style="bold")
    table.add_column("what")
    table.add_column("where")
    places: Mapping[str, Path] = {
        "typed events, a partition a day": config.layout.activity,
        "refused rows, with the reason": config.layout.quarantine,
        "item vectors": config.items_dir,
        "sequences, a partition a snapshot": config.layout.sequences,
        "vectors, a folder a view": config.layout.all_embeddings,
        "SavedModels and manifests": config.layout.artifacts,
        "Feast's settings (registry, stores)": config.path(config.feature_store),
    }
    for what, path in places.items():
        table.add_row(what, _relative(path))
    console.print(table)


def _show_next(console: Console, member: int | str | None) -> None:
    service = AGGREGATORS[-1].service
    console.print("[bold]What to type next[/]")
    for command, what in (
        (f"activity show {'MEMBER_ID' if member is None else member}", "any member's vectors"),
        ("activity status", "what ran, what was refused, what is online"),
        (f"feast feature-services describe {service}", "what a ranker asks for"),
        ("activity run", "tomorrow's snapshot; put it into your scheduler"),
    ):
        console.print(f"  .venv/bin/{command:<50} [dim]{what}[/]", highlight=False, soft_wrap=True)
    console.print("  README.md: fetch in a ranker, build a training set, add an aggregator")


def _holdings(config: Config, con: duckdb.DuckDBPyConnection) -> Table:
    table = Table(title="Tables", title_justify="left", header_style="bold")
    table.add_column("table")
    for name in ("partitions", "rows"):
        table.add_column(name, justify="right")
    table.add_column("first")
    table.add_column("last")
    folders = {"activity": config.layout.activity, "quarantine": config.layout.quarantine}
    folders["member_sequences"] = config.layout.sequences
    folders.update({a.view: config.layout.embeddings(a.view) for a in AGGREGATORS})
    for name, folder in folders.items():
        days = sorted(file.parent.name.split("=", 1)[1] for file in folder.glob("*=*/*.parquet"))
        rows = _rows(con, folder / "*" / "*.parquet") if days else 0
        ends = (days[0], days[-1]) if days else ("", "")
        table.add_row(name, number(len(set(days))), number(rows), *ends)
    items = part_files(config.items_dir)
    rows = _rows(con, config.items_dir / "*.parquet") if items else 0
    table.add_row("items", number(len(items)), number(rows), "", "")
    return table


def _rows(con: duckdb.DuckDBPyConnection, files: Path) -> int:
    row = con.execute("select count(*) from read_parquet($path)", {"path": str(files)}).fetchone()
    return int(row[0]) if row else 0


def _refused(config: Config, con: duckdb.DuckDBPyConnection) -> Table:
    table = Table(title="Refused rows (quarantine)", title_justify="left", header_style="bold")
    table.add_column("reason")
    table.add_column("rows", justify="right")
    if any(config.layout.quarantine.glob("*/*.parquet")):
        counts = con.execute(
            "select reason, count(*) from read_parquet($path) group by all order by 2 desc, 1",
            {"path": str(config.layout.quarantine / "*" / "*.parquet")},
        ).fetchall()
        for reason, count in counts:
            table.add_row(escape(reason), number(count))
    return table


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
