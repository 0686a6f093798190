"""The stream's exact state of each member, kept beside the online store, with a version.

The sequence view cannot be read back for this. Feast keeps whole seconds online, but microseconds
decide the order and the duplicates of actions. So each member has a separate value here: its
sequence, its held actions and, as the version, the as_of of its last fold.

A value is replaced only by one that was made from it: the store compares the version in the step
that writes. Two workers can hold the same member, because a partition moved or a message was
delivered twice. They cannot lose each other's events: one of them is told to fold again.

A new state store implements `StateStore` and gets a line in `open.py`.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transformations.attributes import missing
from transformations.errors import RunFailedError
from transformations.rules import Attribute, Rules
from transformations.stream import Actions, States

Id = int | str
HEAD = struct.Struct("<qqHH")
ATTRIBUTE = struct.Struct("<HcI")
TEXTS = json.JSONDecoder()  # its raw_decode takes half the time of json.loads on short lists
NONE = 0


class StateLostError(RunFailedError):
    """The store holds no states at all: it was emptied."""

    def __init__(self) -> None:
        super().__init__(
            "expected states made from the last snapshot, got an empty store: it was emptied or "
            "restarted without its data. `activity stream --rebuild` publishes the last snapshot "
            "again, folds in what was streamed since, and continues from there"
        )


class StateStore(Protocol):
    """One value per member, each with a version; all members share one note, the base."""

    def base(self) -> str | None:
        """Return the note of the snapshot that all states include; None without states."""

    def set_base(self, base: str) -> None:
        """Note which snapshot all states include."""

    def rebuilding(self) -> AbstractContextManager[None]:
        """Hold the lock of a rebuild; wait for it if another process holds it.

        The lock ends with the process that holds it.
        """

    def clear(self) -> None:
        """Remove everything."""

    def read(self, members: Sequence[Id], seeding: bool = False) -> list[bytes | None]:
        """Return the members' values.

        Raises:
            StateLostError: there is no base, and `seeding` is false.
        """

    def write(
        self,
        members: Sequence[Id],
        replaced: NDArray[np.int64],
        values: Sequence[bytes],
        due: NDArray[np.int64],
        seeding: bool = False,
    ) -> NDArray[np.bool_]:
        """Replace the values whose version is still `replaced`; return which ones were.

        Args:
            replaced: int64 [members], the versions; NONE where there was no value.
            due: int64 [members], the timestamp of the first held action; NONE where none is held.

        Raises:
            StateLostError: there is no base, and `seeding` is false.
        """

    def due(self, now: int, limit: int) -> list[Id]:
        """Return up to `limit` members with a held action before now (microseconds since 1970)."""

    def close(self) -> None:
        """Close the connections."""


def digest(rules: Rules) -> str:
    """Identify the rules that decide a state: under other rules, no stored state is valid."""
    decisive = [rules.id_key, list(rules.actions), rules.length, rules.window.total_seconds()]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def pack(states: States, as_of: int) -> list[bytes]:
    """Return each member's state as bytes, which begin with as_of, the version."""
    blocks = [_packed(some, len(states)) for some in (states.actions, states.held)]
    counts = [some.counts(len(states)).tolist() for some in (states.actions, states.held)]
    return [
        HEAD.pack(as_of, last, n, n_held) + actions + held + attributes
        for last, n, n_held, actions, held, attributes in zip(
            states.last.tolist(), *counts, *blocks, _packed_attributes(states), strict=True
        )
    ]


def unpack(rules: Rules, values: Sequence[bytes | None]) -> tuple[States, NDArray[np.int64]]:
    """Return the states of packed members, and their versions; NONE where there is no value."""
    states = States.empty(rules, len(values))
    versions = np.full(len(values), NONE)
    blocks: tuple[list[Any], list[Any]] = ([], [])
    carried: tuple[dict[str, list[Any]], ...] = tuple(
        {name: [] for name in rules.attributes} for _ in blocks
    )
    for member, value in enumerate(values):
        if value is None:
            continue
        versions[member], states.last[member], *counts = HEAD.unpack_from(value)
        at = HEAD.size
        for block, count in zip(blocks, counts, strict=True):
            if count:
                size = count * 10
                items, end = _items(rules, value, at + size, count)
                block.append((member, count, value[at : at + size], items))
                at = end
        found = _unpacked_attributes(rules, value, at, sum(counts)) if rules.attributes else {}
        for name, attribute in rules.attributes.items():
            each = found[name] if name in found else missing(attribute, sum(counts))
            carried[0][name].append(each[: counts[0]])
            carried[1][name].append(each[counts[0] :])
    actions, held = (
        _unpacked(
            rules,
            block,
            {name: _joined(rules.attributes[name], each) for name, each in attributes.items()},
        )
        for block, attributes in zip(blocks, carried, strict=True)
    )
    return States(actions, held, states.last), versions


def _packed_attributes(states: States) -> list[bytes]:
    """Return each member's attributes, of its sequence and then of what is held.

    Of each attribute: the size of its name, N or T, the size of its values, the name, the values. A
    state of before it was configured has none of it, and one that is no longer configured is
    skipped.
    """
    members = len(states)
    packed = [b""] * members
    parts = (states.actions, states.held)
    # Member by member, the sequence before what is held.
    order = np.argsort(np.concatenate([some.member for some in parts]), kind="stable")
    ends = np.cumsum(np.sum([some.counts(members) for some in parts], axis=0)).tolist()
    for name in states.actions.attributes:
        values = np.concatenate([some.attributes[name] for some in parts])[order]
        is_text = values.dtype == object
        of_all: Any = values.tolist() if is_text else values.astype("<f8")
        start = 0
        for member, end in enumerate(ends):
            some = of_all[start:end]
            data = json.dumps(some).encode() if is_text else some.tobytes()
            head = ATTRIBUTE.pack(len(name), b"T" if is_text else b"N", len(data))
            packed[member] += head + name.encode() + data
            start = end
    return packed


def _unpacked_attributes(rules: Rules, value: bytes, at: int, count: int) -> dict[str, Any]:
    """Return each attribute that a state holds from a position on: an array or a list of texts.

    One that has another type by now, or other than `count` values, is left out.
    """
    found: dict[str, Any] = {}
    while at < len(value):
        length, kind, size = ATTRIBUTE.unpack_from(value, at)
        start = at + ATTRIBUTE.size + length
        name, data = value[start - length : start].decode(), value[start : start + size]
        attribute = rules.attributes.get(name)
        if attribute is not None and (attribute.kind == "number") == (kind == b"N"):
            found[name] = (
                TEXTS.raw_decode(data.decode())[0] if kind == b"T" else np.frombuffer(data, "<f8")
            )
        at = start + size
    return {name: values for name, values in found.items() if len(values) == count}


def _joined(attribute: Attribute, parts: Sequence[Any]) -> NDArray[Any]:
    """Return the values of all members as one array."""
    if attribute.kind == "number":
        return np.concatenate([np.zeros(0), *parts])
    return np.array(list(chain.from_iterable(parts)), object)


def _packed(actions: Actions, members: int) -> list[bytes]:
    """Return each member's actions: timestamps, codes, and the items, texts after their sizes."""
    ends = np.cumsum(actions.counts(members)).tolist()
    timestamps, codes = actions.timestamp.astype("<i8"), actions.code.astype("<u2")
    texts = actions.item.dtype == object
    items: Any = [item.encode() for item in actions.item] if texts else actions.item.astype("<i8")
    packed, start = [], 0
    for end in ends:
        if start == end:
            packed.append(b"")
            continue
        some = items[start:end]
        if texts:
            sizes = struct.pack(f"<{end - start}I", *map(len, some))
            tail = sizes + b"".join(some)
        else:
            tail = some.tobytes()
        packed.append(timestamps[start:end].tobytes() + codes[start:end].tobytes() + tail)
        start = end
    return packed


def _items(rules: Rules, value: bytes, at: int, count: int) -> tuple[Any, int]:
    """Return a block's items, as bytes or a list of texts, and where it ends."""
    if rules.item_id_type == "int64":
        return value[at : at + count * 8], at + count * 8
    sizes = struct.unpack_from(f"<{count}I", value, at)
    at += count * 4
    texts = []
    for size in sizes:
        texts.append(value[at : at + size].decode())
        at += size
    return texts, at


def _unpacked(
    rules: Rules,
    blocks: Sequence[tuple[int, int, bytes, Any]],
    attributes: Mapping[str, NDArray[Any]],
) -> Actions:
    if not blocks:
        return Actions.of(rules, [], [], [], [])
    members, counts, heads, items = zip(*blocks, strict=True)
    timestamps = b"".join(head[: count * 8] for head, count in zip(heads, counts, strict=True))
    codes = b"".join(head[count * 8 :] for head, count in zip(heads, counts, strict=True))
    item: Any = (
        np.frombuffer(b"".join(items), "<i8")
        if rules.item_id_type == "int64"
        else [text for texts in items for text in texts]
    )
    return Actions.of(
        rules,
        np.repeat(members, counts),
        item,
        np.frombuffer(codes, "<u2"),
        np.frombuffer(timestamps, "<i8"),
        attributes,
    )
