"""Forgets members: the tombstones first, then files, the stream, pages, the online store, a bus.

    tombstones ──► files ──► living workers take them over ──► archive, states, online rows, bus
         └ from here on no source brings the members back

Killed at any point, it can be run again: what is gone is gone, and the rest follows.
"""

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from operations.ledger import Ledger
from operations.workspace import workspace_of
from stores.ids import IdError, ids_of
from transformations import archive
from transformations.config import Config
from transformations.errors import InputError, RunFailedError
from transformations.files import replacing, sweep
from transformations.forget import Forgotten, forget_files, member_files, sources_inside
from transformations.ids import LONGEST, is_id
from transformations.secrets import expanded
from transformations.tombstones import Id, Tombstones

if TYPE_CHECKING:
    from feast import FeatureStore

PATIENCE = 60.0
"""Seconds for which living workers are waited for: they look between two batches."""
ASKED_EVERY = 0.1
BY = "[forgotten]"
"""What stands in the ledger's messages in place of an id."""


def members_of(config: Config, given: Sequence[str], file: Path | None = None) -> list[Id]:
    """Return the ids that a person named, as the configured type, each once.

    Args:
        file: A CSV with a column `member_id`, or with one column.

    Raises:
        InputError: one of them is not an id, there is none, or the file has other columns.
    """
    texts = [*given, *([] if file is None else _column(file))]
    if not texts:
        raise InputError("expected a member's id, or a file of them: activity forget 42")
    try:
        members = ids_of(texts, config.member_id_type, "member_id")
    except IdError as error:
        raise InputError(str(error)) from None
    for member in members:
        if isinstance(member, str) and not is_id(member):
            raise InputError(
                f"member_id: expected a text of at most {LONGEST} characters without NUL, got "
                f"{member!r:.60}"
            )
    return list(dict.fromkeys(members))


def _column(file: Path) -> list[str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--file: expected a CSV of ids, {file} cannot be read: {error}") from None
    header = rows[0] if rows else []
    if "member_id" in header:
        at, rows = header.index("member_id"), rows[1:]
    elif len(header) == 1:
        at = 0
    else:
        raise InputError(
            f"--file: expected a column member_id, or one column, in {file}; it has: "
            f"{', '.join(header) or 'nothing'}"
        )
    return [row[at] for row in rows if len(row) > at]


def forget(
    config: Config,
    members: Sequence[Id],
    bus: str | None = None,
    patience: float = PATIENCE,
    has_run: bool = True,
) -> Forgotten:
    """Remove members from a workspace and all that it published; the caller holds the lock.

    Args:
        members: Ids of the configured type.
        bus: The URL of the stream's bus, whose messages and dead letters are removed too.
        patience: Seconds for which living stream workers are waited for.
        has_run: Whether anything may be online; if not, Feast's stores are not opened.

    Raises:
        InputError: the Feast project is another workspace's, or the bus is no URL of one.
    """
    into = Forgotten()
    tombstones = Tombstones(config)
    tombstones.add(members)
    sweep(config.data)  # what killed runs left beside the tables
    forget_files(config, members, into)
    if has_run:
        from serving.publish.feast_store import open_store  # Feast: seconds

        store = open_store(config)
        _refuse_others(config, store)
        _forget_stream(config, store, members, tombstones.version, patience, into)
    # Workers know the tombstones now, and what they had spooled is in the archive.
    _forget_archived(config, tombstones, into)
    if has_run:
        _forget_online(config, store, members, into)
        _forget_on_buses(config, bus, tombstones, into)
        into.add("messages in the ledger", Ledger(config).replace_in_errors(members, BY))
    _forget_in_pages(config, members, into)
    _say_what_is_left(config, into)
    return into


def _forget_archived(config: Config, tombstones: Tombstones, into: Forgotten) -> None:
    try:
        into.add("archive", archive.forget(config, tombstones))
    except RunFailedError as error:
        into.left.append(f"the archive ({error}): mend it, then forget again")


def _refuse_others(config: Config, store: "FeatureStore") -> None:
    from serving.publish.marks import marks_of
    from serving.publish.owner import refuse_others

    found = {where: mark.read() for where, mark in marks_of(store).items()}
    refuse_others(config, store, workspace_of(config), found)


def _forget_stream(
    config: Config,
    store: "FeatureStore",
    members: Sequence[Id],
    version: str,
    patience: float,
    into: Forgotten,
) -> None:
    from serving.publish.marks import online_kind
    from serving.stream.offline_log import PARTITION, append_dead, unaware
    from serving.stream.states.open import STATES, open_states

    deadline = time.monotonic() + patience
    while (late := unaware(config, version)) and time.monotonic() < deadline:
        time.sleep(ASKED_EVERY)
    if late:
        into.left.append(
            f"what these stream workers write: {', '.join(late)}. They did not take the tombstones "
            f"over within {patience:.0f} s: restart them, then forget again"
        )
    append_dead(config)
    # What workers appended before they knew.
    streamed = [file for file in member_files(config) if file.parent.name.startswith(PARTITION)]
    forget_files(config, members, into, streamed)
    if online_kind(store) in STATES:
        states = open_states(config, store)
        try:
            into.add("states of the stream", states.forget(members))
        finally:
            states.close()


def _forget_online(
    config: Config, store: "FeatureStore", members: Sequence[Id], into: Forgotten
) -> None:
    from serving.publish.forget import forget_in_sqlite, forget_online, keys_of

    forget_online(config, store, members, into)
    # The worlds of an evaluation have online stores of their own, of this kind.
    keys = keys_of(config, store, members)
    for file in sorted(config.layout.evaluation.rglob("online.db")):
        for _, rows in forget_in_sqlite(file, keys, into):
            into.add("evaluation, online", rows)


def _forget_on_buses(
    config: Config, url: str | None, tombstones: Tombstones, into: Forgotten
) -> None:
    from serving.stream.bus.messages import member_in
    from serving.stream.bus.open import open_bus
    from serving.stream.bus.protocol import BusGoneError
    from serving.stream.offline_log import spools

    def is_theirs(message: bytes) -> bool:
        who = member_in(message)
        return who is not None and tombstones.are([who])[0]

    topic = config.recommend.impressions.topic
    named = {"the bus": url, "the topic of impressions": None if topic is None else expanded(topic)}
    if url is None and spools(config).exists():
        into.left.append(
            "messages and dead letters on the stream's bus: name it with --bus. Workers pass over "
            "the messages"
        )
    for what, address in named.items():
        if address is None:
            continue
        opened = open_bus(address, "activity-forget")
        try:
            removed = opened.forget(is_theirs)
        except BusGoneError as error:
            into.left.append(f"messages on {what}, which does not answer ({error}): forget again")
            continue
        finally:
            opened.close()
        if removed is None:
            into.left.append(
                f"messages on {what}: Kafka deletes no single message, but what is older than its "
                "retention. Workers pass over them"
            )
        for stream, count in (removed or {}).items():
            into.add(f"{stream}, on {what}", count)


def _forget_in_pages(config: Config, members: Sequence[Id], into: Forgotten) -> None:
    """Take the members out of the evaluation's result, and write its page again."""
    from pipelines.report import NAME, write_report

    file, gone = config.layout.evaluation / "result.json", {str(member) for member in members}
    if not file.exists():
        return
    result = json.loads(file.read_text())
    shown = result.get("members", [])
    result["members"] = [row for row in shown if str(row["member_id"]) not in gone]
    if len(result["members"]) == len(shown):
        return
    # The page first: after a kill between the two, the result still says that there is work.
    if (file.parent / NAME).exists():
        write_report(result, file.parent)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    into.add("members shown in the report", len(shown) - len(result["members"]))


def _say_what_is_left(config: Config, into: Forgotten) -> None:
    layout = config.layout
    if any(folder.exists() for folder in (layout.artifacts, layout.root / "item_encoders")):
        into.left.append(
            "what was fitted while they were there (item vectors, weights, counts of items) holds "
            "no id, and may hold what was learned of them: fit it again"
        )
    inside = [str(source) for source in sources_inside(config) if source.exists()]
    into.left.append(
        "the sources, which are yours"
        + (f" ({', '.join(inside)})" if inside else "")
        + ": runs, workers and services pass over what they hold of them"
    )
