"""Messages of the bus as rows of the archive, and as events again.

A worker spools each message that it handled before it acknowledges it; a spool becomes one object
of the archive (offline_log.py). What is redelivered is kept twice, and counts once when it is
staged again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.stream.bus.messages import StreamEvent, decode_all
from serving.stream.bus.protocol import Message
from transformations import archive, clock
from transformations.config import Config
from transformations.quoting import quoted
from transformations.rules import Rules
from transformations.sources.event_source import Given
from transformations.sources.files import Files

SPOOL = "messages"
"""The folder of a worker's spool that holds them; no view is called so."""
BUS = "bus"
SCHEMA = pa.schema(
    {
        "member_id": pa.string(),
        "sent": pa.timestamp("us", tz="UTC"),
        "position": pa.string(),
        "value": pa.binary(),
    }
)
"""A message's bytes, its position and arrival on the bus; whose it is, null if it does not say."""
ROWS_AT_ONCE = 50_000


def rows_of(messages: Sequence[Message], whose: Mapping[int, object]) -> pa.RecordBatch:
    """Return messages as rows of the archive.

    Args:
        whose: Index of each message that is kept → its member's id, or None.
    """
    kept = [messages[index] for index in sorted(whose)]
    members = [whose[index] for index in sorted(whose)]
    return pa.record_batch(
        [
            pa.array([None if each is None else str(each) for each in members], pa.string()),
            pa.array([message.sent for message in kept], SCHEMA.field("sent").type),
            pa.array([_said(message.position) for message in kept], pa.string()),
            pa.array([message.value for message in kept], pa.binary()),
        ],
        schema=SCHEMA,
    )


def read_now() -> archive.Read:
    """Return a read of the bus that ends now."""
    now = clock.now()
    return archive.Read(now, now, BUS, archive.MESSAGES, BUS, "member_id")


def staged_like(config: Config) -> Config:
    """Return the configuration by which the rows of `events_of` are staged."""
    events = config.events
    own = type(events.columns)(
        ingested_at=None if events.columns.ingested_at is None else "ingested_at"
    )
    attributes = {
        name: one.model_copy(update={"column": None}) for name, one in events.attributes.items()
    }
    changes = {"columns": own, "attributes": attributes, "time_unit": "timestamp"}
    return config.model_copy(update={"events": events.model_copy(update=changes)})


def events_of(config: Config, read: archive.Read, folder: Path) -> tuple[Given, dict[str, int]]:
    """Read messages of the archive as a worker does, as of when they were kept.

    Args:
        folder: For the events, until they are staged by `staged_like`.

    Returns:
        The events, `ingested_at` being a message's arrival on the bus; and why others are refused:
        reason → messages. Those went to the bus's dead letters.
    """
    refused: dict[str, int] = {}
    file, rules, n_rows = folder / "events.parquet", config.rules, 0
    schema = _schema(rules)
    with (
        pq.ParquetFile(config.layout.archived(str(read.sha256))) as kept,
        pq.ParquetWriter(file, schema, compression="lz4") as writer,
    ):
        for batch in kept.iter_batches(ROWS_AT_ONCE):
            values, sent = batch["value"].to_pylist(), batch["sent"].cast(pa.int64()).to_pylist()
            events, wrong = decode_all(rules, values, read.as_of)
            for reason in wrong.values():
                refused[reason] = refused.get(reason, 0) + 1
            arrived = [one for index, one in enumerate(sent) if index not in wrong]
            rows = [_row(rules, event, at) for event, at in zip(events, arrived, strict=True)]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            n_rows += len(rows)
    kinds = {name: _SQL[str(schema.field(name).type)] for name in schema.names}
    groups = [Files((file,), tuple(schema.names), kinds)] if n_rows else []
    return Given(groups, lambda _: quoted(BUS)), refused


_SQL = {
    "int64": "BIGINT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
}


def _schema(rules: Rules) -> pa.Schema:
    time = SCHEMA.field("sent").type
    ids = {"int64": pa.int64(), "string": pa.string()}
    kinds: dict[str, pa.DataType] = {
        "member_id": ids[rules.member_id_type],
        "item_id": ids[rules.item_id_type],
        "action": pa.string(),
        "event_timestamp": time,
        "ingested_at": time,
    }
    kinds |= dict.fromkeys(rules.texts.values(), pa.string())
    for name, attribute in rules.attributes.items():
        kinds[name] = pa.float64() if attribute.kind == "number" else pa.string()
    return pa.schema(kinds)


def _row(rules: Rules, event: StreamEvent, sent: int) -> dict[str, Any]:
    action = [*rules.actions][event.code - 1]
    text = {} if event.text is None else {rules.texts[action]: event.text}
    return {
        "member_id": event.member_id,
        "item_id": event.item_id if event.text is None else None,
        "action": action,
        "event_timestamp": event.timestamp,
        "ingested_at": sent,
        **{
            name: float(value) if rules.attributes[name].kind == "number" else value
            for name, value in event.attributes.items()
        },
        **text,
    }


def _said(position: object) -> str:
    """Write a position as dead letters do: Redis's entry, or Kafka's partition:offset."""
    if isinstance(position, bytes):
        return position.decode()
    if isinstance(position, tuple):
        return ":".join(map(str, position))
    return str(position)
