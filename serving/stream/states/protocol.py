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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transformations.errors import RunFailedError
from transformations.rules import MISSING, Attribute, Rules
from transformations.stream import Actions, States

Id = int | str
HEAD = struct.Struct("<qqHH")
ATTRIBUTE = struct.Struct("<HcI")
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

    def forget(self, members: Sequence[Id]) -> int:
        """Remove the members' values, also where there is no base; return how many there were."""

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
    carried: dict[str, list[Any]] = {name: [] for name in rules.attributes}
    lengths: list[int] = []
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
        if rules.attributes:
            lengths += counts
            found = _unpacked_attributes(rules, value, at, sum(counts))
            for name, parts in carried.items():
                parts.append(found.get(name) or _nothing(rules.attributes[name], sum(counts)))
    attributes = {name: _joined(rules.attributes[name], each) for name, each in carried.items()}
    # Each member's sequence, and then what it holds.
    is_held = np.repeat(np.tile([False, True], len(lengths) // 2), lengths)
    actions, held = (
        _unpacked(rules, block, {name: values[own] for name, values in attributes.items()})
        for block, own in zip(blocks, (~is_held, is_held), strict=True)
    )
    return States(actions, held, states.last), versions


def _packed_attributes(states: States) -> list[bytes]:
    """Return each member's attributes, of its sequence and then of what is held.

    Of each attribute: the size of its name, N (numbers) or S (texts), the size of its values, the
    name, the values. Texts are their sizes in bytes, then UTF-8. A state of before an attribute was
    configured has none of it, and one that is no longer configured is skipped.
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
        each = _text_bytes(values, ends) if is_text else _number_bytes(values, ends)
        kind, name_bytes = b"S" if is_text else b"N", name.encode()
        for member, data in enumerate(each):
            packed[member] += ATTRIBUTE.pack(len(name_bytes), kind, len(data)) + name_bytes + data
    return packed


def _number_bytes(values: NDArray[Any], ends: Sequence[int]) -> Iterator[bytes]:
    data = values.astype("<f8").tobytes()
    for start, end in pairwise([0, *ends]):
        yield data[8 * start : 8 * end]


def _text_bytes(values: NDArray[Any], ends: Sequence[int]) -> Iterator[bytes]:
    # All texts at once: one object per text would take most of a worker's time.
    array = pa.array(values, pa.string())
    _, offsets, buffer = array.buffers()
    places = np.frombuffer(offsets, np.int32)[: len(array) + 1]
    sizes = np.diff(places).astype("<u4").tobytes()
    data = buffer.to_pybytes() if buffer else b""
    cuts = places[[0, *ends]].tolist()
    for (start, end), (first, last) in zip(pairwise([0, *ends]), pairwise(cuts), strict=True):
        yield sizes[4 * start : 4 * end] + data[first:last]


def _unpacked_attributes(rules: Rules, value: bytes, at: int, count: int) -> dict[str, Any]:
    """Return the bytes of each attribute that a state holds from a position on.

    Of texts, a pair: their sizes, and UTF-8. An attribute that has another type by now, or other
    than `count` values, is left out.
    """
    found: dict[str, Any] = {}
    while at < len(value):
        length, kind, size = ATTRIBUTE.unpack_from(value, at)
        start = at + ATTRIBUTE.size + length
        name, data = value[start - length : start].decode(), value[start : start + size]
        at = start + size
        attribute = rules.attributes.get(name)
        if attribute is None or (attribute.kind == "number") != (kind == b"N"):
            continue
        if kind == b"N":
            if size == 8 * count:
                found[name] = data
        elif kind == b"T":  # JSON, as it was written at first
            texts = [text.encode() for text in json.loads(data)]
            if len(texts) == count:
                found[name] = struct.pack(f"<{count}I", *map(len, texts)), b"".join(texts)
        elif size >= 4 * count:
            found[name] = data[: 4 * count], data[4 * count :]
    return found


def _nothing(attribute: Attribute, count: int) -> Any:
    if attribute.kind == "number":
        return struct.pack("<d", np.nan) * count
    return struct.pack("<I", len(MISSING)) * count, MISSING.encode() * count


def _joined(attribute: Attribute, parts: Sequence[Any]) -> NDArray[Any]:
    """Return the values of all members as one array."""
    if attribute.kind == "number":
        return np.frombuffer(b"".join(parts), "<f8")
    if not parts:
        return np.zeros(0, object)
    sizes, data = (b"".join(each) for each in zip(*parts, strict=True))
    offsets = np.zeros(len(sizes) // 4 + 1, np.int32)
    np.cumsum(np.frombuffer(sizes, "<u4"), out=offsets[1:])
    texts = pa.StringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)
    )
    # Many texts are equal; each different one becomes one object.
    different = texts.dictionary_encode()
    return different.dictionary.to_numpy(zero_copy_only=False)[different.indices.to_numpy()]


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
