"""An attribute is the same to the last bit on all four paths, and what is missing stays missing."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from operations.fits import chosen
from serving.request.sequences import Event
from serving.request.service import Question
from serving.request.vectors import RequestTime
from serving.stream.bus.messages import decode, encode
from serving.stream.updater import open_updater
from stores.read import Reader
from tests.worlds.workspace import DECAY, END, Workspace
from transformations.layout import partition
from transformations.names import SEQUENCE_VIEW
from transformations.rules import MISSING

ATTRIBUTES = """
  attributes:
    dwell: {type: number, column: seconds, unit: s, min: 0, max: 3600}
    seen_on: {type: category}
"""
NAMES = ("item_ids", "dwell", "seen_on")
FIELDS = [f"{SEQUENCE_VIEW}:{name}" for name in NAMES]
HOUR = timedelta(hours=1)

Row = tuple[str, str | None, str | None]  # item, the number's bits, the category
Carried = tuple[float | None, str | None]
# Small subnormals, numbers with all bits of a double, and the bounds.
NUMBERS = st.floats(0, 3600) | st.sampled_from([0.1 + 0.2, 5e-324, 3600.0, 1 / 3])
LOG = st.lists(
    st.tuples(st.none() | NUMBERS, st.none() | st.sampled_from(["feed", "ä", "NaN"])),
    min_size=1,
    max_size=6,
)
# What one member did in one world, as the members of four paths did it.
BATCH, STREAM, REQUEST = 1_000, 2_000, 3_000
# An example holds several members, and a run of all of them takes seconds: no shrinking.
few = settings(max_examples=4, deadline=None, phases=[Phase.generate])


def rows_of(lists: Sequence[Sequence[Any]]) -> list[Row]:
    """Return actions as they can be compared: a number's bits, None where it is missing."""
    return [
        (
            item,
            None if dwell is None or dwell != dwell else float(dwell).hex(),
            None if seen_on == MISSING else seen_on,
        )
        for item, dwell, seen_on in zip(*lists, strict=True)
    ]


def events_of(member: int, log: list[Carried]) -> list[Event]:
    """Return a member's actions, an hour apart, the last one an hour before END."""
    return [
        Event(
            member,
            f"g-{number % 6}",
            "play",
            END - (len(log) - number) * HOUR,
            {"dwell": dwell, "seen_on": seen_on},
        )
        for number, (dwell, seen_on) in enumerate(log)
    ]


def written(events: Sequence[Event]) -> str:
    """Return events as the lines of the source."""
    lines = ["user_id,product,event_type,ts,seconds,seen_on"]
    for member, item, action, at, carried, *_ in events:
        values = ["" if value is None else str(value) for value in carried.values()]
        lines.append(f"{member},{item},{action},{at:%Y-%m-%d %H:%M:%S},{','.join(values)}")
    return "\n".join(lines) + "\n"


def joined(workspace: Workspace, members: list[int]) -> list[list[Row]]:
    later = datetime.now(UTC) + timedelta(days=1)
    labels = pd.DataFrame({"member_id": members, "event_timestamp": [later] * len(members)})
    frame = workspace.store.get_historical_features(
        entity_df=labels, features=FIELDS, filter_by_created_timestamp=True
    ).to_df()
    by_member = frame.set_index("member_id")
    return [rows_of([by_member.loc[member, name] for name in NAMES]) for member in members]


def published(workspace: Workspace, members: list[int]) -> list[list[Row]]:
    with Reader(workspace.store, FIELDS) as reader:
        got = reader.read({"member_id": members})
    return [rows_of([got[name][row] for name in NAMES]) for row in range(len(members))]


def stream(workspace: Workspace, events: Sequence[Event]) -> None:
    """Send the events as messages to a worker's updater, in two batches."""
    config, store = workspace.config, workspace.store
    clock = END + timedelta(minutes=1)
    updater = open_updater(config, store, chosen(config, None), "worker", lambda: clock)
    updater.seeding = True  # nothing was streamed before
    messages = [decode(config.rules, encode(*event), clock) for event in events]
    for batch in (messages[1::2], messages[::2]):
        updater.apply(batch)
    updater.log.close()
    updater.states.close()


def requested(workspace: Workspace, members: list[int], events: Sequence[Event]) -> list[list[Row]]:
    """Return the sequences that models see when the events come in the body of POST /embed."""
    body = {
        "member_ids": members,
        "events": [
            {**event._asdict(), "event_timestamp": event.event_timestamp.isoformat()}
            for event in events
        ],
    }
    question = Question.model_validate_json(json.dumps(body))
    asked = [Event(**dict(event)) for event in question.events]
    with RequestTime(workspace.config, workspace.store) as requests:
        rows = requests.embed(question.member_ids, asked, END + timedelta(minutes=1)).sequences
    assert rows["member_id"].to_pylist() == members
    return [rows_of([rows[name][row].as_py() for name in NAMES]) for row in range(len(members))]


@few
@given(logs=st.lists(LOG, min_size=3, max_size=6), cut=st.integers(0, 6))
def test_it_is_equal_to_the_last_bit_on_every_path(logs: list[list[Carried]], cut: int) -> None:
    """The same actions by four members: in a source, as messages, and partly in a request."""
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.lines(DECAY)
        workspace.setting("item_id_type: string", ATTRIBUTES.strip("\n") + "\nitem_id_type: string")
        own = {
            path: [events_of(path + nth, log) for nth, log in enumerate(logs)]
            for path in (BATCH, STREAM, REQUEST)
        }
        members = {path: [path + nth for nth in range(len(logs))] for path in own}
        known = [event for log in own[REQUEST] for event in log[:cut]]
        source = [event for log in own[BATCH] for event in log] + known
        (workspace.root / "source" / "events.csv").write_text(written(source))
        workspace.run(END)

        expected = [
            rows_of(
                [[e.item_id for e in log], *([e.attributes[n] for e in log] for n in NAMES[1:])]
            )
            for log in own[BATCH]
        ]
        file = partition(workspace.config.layout.sequences, END)
        table = {row["member_id"]: row for row in pq.read_table(file).to_pylist()}
        in_table = [rows_of([table[one][name] for name in NAMES]) for one in members[BATCH]]
        assert in_table == expected
        assert published(workspace, members[BATCH]) == expected
        assert joined(workspace, members[BATCH]) == expected

        new = [event for log in own[REQUEST] for event in log[cut:]]
        assert requested(workspace, members[REQUEST], new) == expected

        stream(workspace, [event for log in own[STREAM] for event in log])
        assert published(workspace, members[STREAM]) == expected
        assert joined(workspace, members[STREAM]) == expected
