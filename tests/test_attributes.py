"""What an action carries is the same in the join, the batch, the stream and the request."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import publish
from serving.request.sequences import Event
from serving.request.vectors import RequestTime
from serving.stream.bus.messages import MessageError, decode, encode
from serving.stream.states.protocol import pack, unpack
from stores.read import Reader
from tests.worlds.workspace import END, Workspace
from transformations.config import Config, load_config
from transformations.errors import InputError
from transformations.layout import partition, partition_files
from transformations.rules import MISSING, Action, Attribute, Rules
from transformations.stream import Actions, States, differ, fold, from_sequences, to_sequences
from transformations.timestamps import NO_TIME, microseconds

ATTRIBUTES = """
  attributes:
    dwell: {type: number, column: seconds, unit: s, min: 0, max: 3600}
    seen_on: {type: category, max_length: 10}
    comment: {type: text, max_length: 40}
"""
NOW = microseconds(END)
RULES = Rules(
    "int64",
    "string",
    {"play": Action("positive"), "dismiss": Action("negative")},
    timedelta(days=28),
    4,
    2,
    {"dwell": Attribute("number", 0, 3600), "seen_on": Attribute("category", max_length=10)},
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Member 3's last two actions carry something, and something else is wrong in a row each."""
    workspace = Workspace(tmp_path)
    workspace.setting("item_id_type: string", ATTRIBUTES.strip("\n") + "\nitem_id_type: string")
    workspace.setting("events:", "events:\n  max_refused_share: 0.5")
    file = tmp_path / "source" / "events.csv"
    first, *rows = file.read_text().splitlines()
    late = [
        (2, "12.25", "feed", "quite good"),
        (1, "", "", ""),
        (3, "-1", "feed", ""),
        (4, "4000", "", ""),
        (5, "long", "", ""),
        (6, "1", "a page too long", ""),
    ]
    lines = [f"{row},,," for row in rows]
    lines += [
        f"3,g-{hours},play,{END - timedelta(hours=hours):%Y-%m-%d %H:%M:%S},{','.join(carried)}"
        for hours, *carried in late
    ]
    file.write_text("\n".join([f"{first},seconds,seen_on,comment", *lines]) + "\n")
    return workspace


def last_two(lists: dict[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return what the last two actions carry, None where it is missing."""

    def plain(value: Any) -> Any:
        return None if value is None or value != value or value == MISSING else value

    return [tuple(plain(lists[name][at]) for name in NAMES_OF_ALL) for at in (-2, -1)]


NAMES_OF_ALL = ("dwell", "seen_on", "comment")
CARRIED = [(12.25, "feed", "quite good"), (None, None, None)]


def test_it_is_the_same_everywhere(workspace: Workspace) -> None:
    workspace.run(END)
    config = workspace.config
    file = partition(config.layout.sequences, END)
    (row,) = pq.read_table(file, filters=[("member_id", "=", 3)]).to_pylist()
    assert last_two(row) == CARRIED
    assert None not in row["dwell"]  # Feast keeps no null in a list
    assert len(row["dwell"]) == len(row["item_ids"])

    store, view = workspace.store, "member_activity_sequence"
    fields = [f"{view}:{name}" for name in ("item_ids", "dwell", "seen_on", "comment")]
    online = store.get_online_features(fields, [{"member_id": 3}]).to_dict()
    assert (
        last_two({name: values[0] for name, values in online.items() if name != "member_id"})
        == CARRIED
    )
    labels = pd.DataFrame(
        {"member_id": [3], "event_timestamp": [datetime.now(UTC) + timedelta(days=1)]}
    )
    joined = store.get_historical_features(entity_df=labels, features=fields).to_df()
    assert last_two(joined.iloc[0].to_dict()) == CARRIED

    at = END + timedelta(minutes=5)
    with RequestTime(config, store) as requests:
        new = Event(3, "g-new", "play", END, {"dwell": 0.5})
        requests.embed([3], [new], at)
        with pytest.raises(InputError, match="attribute dwell is out of range: got -1"):
            requests.embed([3], [new._replace(attributes={"dwell": -1})], at)
        with pytest.raises(InputError, match=r"expected attributes among dwell, .* got 'dwel'"):
            requests.embed([3], [new._replace(attributes={"dwel": 1})], at)


def test_requests_read_sequences_of_any_length_and_null_where_it_is_missing(
    workspace: Workspace,
) -> None:
    """Of members with more and fewer actions, and of one that nobody knows, in one request."""
    with (workspace.root / "source" / "events.csv").open("a") as file:
        file.write(f"77,g-1,play,{END - timedelta(hours=1):%Y-%m-%d %H:%M:%S},0.1,ad,fine\n")
    workspace.run(END)
    store = workspace.store
    fields = [f"member_activity_sequence:{name}" for name in ("dwell", "seen_on", "comment")]
    with Reader(store, fields) as reader:
        got = reader.read({"member_id": [3, 99, 77]})
    assert [tuple(got[name][0][at] for name in NAMES_OF_ALL) for at in (-2, -1)] == CARRIED
    assert [got[name][1] for name in NAMES_OF_ALL] == [None] * 3
    assert [got[name][2] for name in NAMES_OF_ALL] == [[0.1], ["ad"], ["fine"]]
    with RequestTime(workspace.config, store) as requests:
        apart = [requests.embed([member], as_of=END).columns["n_actions"][0] for member in (3, 77)]
        both = requests.embed([3, 99, 77], as_of=END).columns["n_actions"].tolist()
    assert both == [apart[0], 0, 1]


def test_what_was_online_before_an_attribute_was_configured_is_read_without_it(
    workspace: Workspace,
) -> None:
    settings = workspace.root / "activity.yaml"
    configured = settings.read_text()
    workspace.setting(ATTRIBUTES.strip("\n"), "")
    workspace.run(END)
    settings.write_text(configured)
    publish.apply(workspace.config, workspace.store)  # nothing was published since
    with RequestTime(workspace.config, workspace.store) as requests:
        new = Event(3, "g-new", "play", END, {"dwell": 0.5})
        got = requests.embed([3, 99], [new], END + timedelta(minutes=5))
    before = workspace.online("ranker_average_v1")
    assert got.columns["n_actions"].tolist() == [before["n_actions"] + 1, 0]


def test_what_does_not_fit_is_refused_with_what_it_was(workspace: Workspace) -> None:
    workspace.run(END)
    rows = [
        row
        for file in partition_files(workspace.config.layout.quarantine)
        for row in pq.read_table(file).to_pylist()
    ]
    refused = {row["reason"]: json.loads(row["attributes"])["dwell"] for row in rows}
    assert refused == {
        "attribute dwell is out of range": "4000",
        "attribute dwell is not a number": "long",
        "attribute seen_on is too long": "1",
    }
    assert len(rows) == 4


def test_an_attribute_that_comes_later_is_missing_of_what_was_before(workspace: Workspace) -> None:
    workspace.setting(ATTRIBUTES.strip("\n"), "")
    workspace.run(END - timedelta(days=1))
    workspace.setting("item_id_type: string", ATTRIBUTES.strip("\n") + "\nitem_id_type: string")
    with (workspace.root / "source" / "events.csv").open("a") as file:
        file.write(f"3,g-9,play,{END - timedelta(minutes=1):%Y-%m-%d %H:%M:%S},7,ad,\n")
    workspace.run(END)
    file = partition(workspace.config.layout.sequences, END)
    (row,) = pq.read_table(file, filters=[("member_id", "=", 3)]).to_pylist()
    assert last_two(row)[-1] == (7.0, "ad", None)
    # The source is read again, and what it still holds is filled in.
    assert (12.25, "feed", "quite good") in zip(*(row[name] for name in NAMES_OF_ALL), strict=True)
    # The snapshot of before has no such list.
    labels = pd.DataFrame(
        {
            "member_id": [3, 3],
            "event_timestamp": [END - timedelta(hours=1), END + timedelta(hours=1)],
        }
    )
    joined = workspace.store.get_historical_features(
        entity_df=labels, features=["member_activity_sequence:dwell"]
    ).to_df()
    before, after = joined.sort_values("event_timestamp")["dwell"]
    assert before is None
    assert after[-1] == 7.0


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("{action: {type: number}}", "would be a column of that name"),
        ("{Dwell: {type: number}}", "lower-case letters"),
        ("{dwell: {type: float}}", "Input should be 'number', 'category' or 'text'"),
        ("{dwell: {type: text, min: 3}}", "belong to a number"),
        ("{dwell: {type: number, min: 3, max: 1}}", "expected min at most max"),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, attributes: str, message: str) -> None:
    file = tmp_path / "activity.yaml"
    file.write_text(f"items: {{text: [t]}}\nevents: {{attributes: {attributes}}}\n")
    with pytest.raises(InputError, match=message):
        load_config(file)


# The rule of the fold


VALUES = {
    "dwell": st.none() | st.floats(0, 3600),
    "seen_on": st.none() | st.sampled_from(["feed", "ad", "ä"]),
}
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["a", "b"]),
        st.sampled_from([1, 2]),
        st.integers(1, 9),
        st.fixed_dictionaries(VALUES),
    ),
    max_size=14,
)
Log = list[tuple[int, str, int, int, dict[str, Any]]]


def actions_of(log: Log) -> Actions:
    who, items, codes, hours, given = zip(*log, strict=True) if log else ((), (), (), (), ())
    times = [NOW - hour * 3_600_000_000 for hour in hours]
    attributes = {name: [one[name] for one in given] for name in VALUES}
    return Actions.of(RULES, list(who), list(items), list(codes), times, attributes)


def brute_force(log: Log) -> dict[int, list[tuple[Any, ...]]]:
    """Return each member's last actions with what they carry: the first copy that has it."""
    found: dict[int, dict[tuple[Any, ...], dict[str, Any]]] = {0: {}, 1: {}}
    for member, item, code, hour, carried in log:
        kept = found[member].setdefault((-hour, item, ("dismiss", "play").index(NAMES[code])), {})
        for name, value in carried.items():
            if value is not None:
                kept.setdefault(name, value)
    return {
        member: [
            (key[1], *(kept.get(name) for name in VALUES)) for key, kept in sorted(rows.items())
        ][-4:]
        for member, rows in found.items()
    }


NAMES = ("", "play", "dismiss")


def listed(states: States) -> dict[int, list[tuple[Any, ...]]]:
    actions = states.actions
    rows: dict[int, list[tuple[Any, ...]]] = {0: [], 1: []}
    for at, member in enumerate(actions.member.tolist()):
        values = [actions.attributes[name][at] for name in VALUES]
        plain = [None if v != v or v == MISSING else v for v in values]
        rows[member].append((actions.item[at], *plain))
    return rows


@settings(max_examples=200, deadline=None)
@given(log=EVENTS, cut=st.integers(0, 14))
def test_folding_keeps_what_the_first_copy_carries(log: Log, cut: int) -> None:
    states = States.empty(RULES, 2)
    for part in (log[:cut], log[cut:]):
        states = fold(RULES, states, actions_of(part), NOW).states
    assert listed(states) == brute_force(log)

    # What is kept of it, and what is published, is the same.
    values = pack(states, NOW)
    again, _ = unpack(RULES, values)
    assert not differ(states, again).any()
    assert listed(again) == listed(states)
    ids = pa.array([0, 1], pa.int64())
    rows = to_sequences(RULES, ids, states, NOW, END)
    assert listed(from_sequences(RULES, rows)) == listed(states)


def test_an_older_state_is_read_without_attributes() -> None:
    older = Rules(**{**RULES.__dict__, "attributes": {}})
    actions = Actions.of(older, [0, 0], ["a", "b"], [1, 2], [NOW - 2, NOW - 1])
    nothing = Actions.of(older, [], [], [], [])
    values = pack(States(actions, nothing, np.array([NOW - 1])), NOW)
    states, _ = unpack(RULES, values)
    assert np.isnan(states.actions.attributes["dwell"]).tolist() == [True, True]
    assert states.actions.attributes["seen_on"].tolist() == [MISSING, MISSING]
    # And the other way: one that is no longer configured is left out.
    fuller = pack(
        fold(
            RULES,
            States.empty(RULES, 1),
            actions_of([(0, "a", 1, 1, {"dwell": 2.0, "seen_on": "ad"})]),
            NOW,
        ).states,
        NOW,
    )
    back, _ = unpack(older, fuller)
    assert (back.actions.item.tolist(), dict(back.actions.attributes)) == (["a"], {})
    assert back.last.tolist() != [NO_TIME]


def test_a_state_of_another_type_is_read_without_that_attribute() -> None:
    """`activity reset` comes with a changed type, but a worker may be there first."""
    log = [(0, "a", 1, 1, {"dwell": 2.0, "seen_on": "ad"})]
    values = pack(fold(RULES, States.empty(RULES, 1), actions_of(log), NOW).states, NOW)
    swapped = {"dwell": Attribute("text"), "seen_on": Attribute("category", max_length=10)}
    states, _ = unpack(Rules(**{**RULES.__dict__, "attributes": swapped}), values)
    assert states.actions.attributes["dwell"].tolist() == [MISSING]
    assert states.actions.attributes["seen_on"].tolist() == ["ad"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dwell": "3"}, "attribute dwell is not a number"),
        ({"dwell": True}, "attribute dwell is not a number"),
        ({"dwell": -0.5}, "attribute dwell is out of range"),
        ({"seen_on": 3}, "attribute seen_on is not a text"),
        ({"seen_on": "x" * 11}, "attribute seen_on is too long"),
        ({"seen_on": "a\x1ab"}, r"attribute seen_on holds U\+001A"),
        ([1], "attributes are not a JSON object"),
    ],
)
def test_a_message_that_the_batch_would_refuse_is_refused(given: Any, reason: str) -> None:
    message = json.dumps({"schema": 1, "member_id": 1, "item_id": "a", "action": "play",
                          "event_timestamp": NOW - 1, "attributes": given}).encode()  # fmt: skip
    with pytest.raises(MessageError, match=reason):
        decode(RULES, message, END)


def test_a_message_carries_what_is_configured_and_may_carry_nothing() -> None:
    at = END - timedelta(seconds=1)
    message = encode(1, "a", "play", at, {"dwell": 2.5, "seen_on": None, "other": 1})
    assert decode(RULES, message, END).attributes == {"dwell": 2.5}
    assert decode(RULES, encode(1, "a", "play", at), END).attributes == {}


def test_of_two_copies_in_the_source_the_first_ingested_decides(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.setting("event_timestamp: ts}", "event_timestamp: ts, ingested_at: seen}")
    workspace.setting("item_id_type: string", ATTRIBUTES.strip("\n") + "\nitem_id_type: string")
    at = f"{END - timedelta(hours=3):%Y-%m-%d %H:%M:%S}"
    copies = [
        f"3,g-1,play,{at},{END - timedelta(hours=1):%Y-%m-%d %H:%M:%S},9,ad,",
        f"3,g-1,play,{at},{END - timedelta(hours=2):%Y-%m-%d %H:%M:%S},4,,",
    ]
    header = "user_id,product,event_type,ts,seen,seconds,seen_on,comment"
    (tmp_path / "source" / "events.csv").write_text("\n".join([header, *copies]) + "\n")
    workspace.run(END)
    config: Config = workspace.config
    (file,) = partition_files(config.layout.activity)
    found = duckdb.sql(f"select dwell, seen_on, comment from '{file}'").fetchall()
    assert found == [(4.0, "ad", None)]
