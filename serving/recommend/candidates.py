"""A member's candidates by every source of the catalogue, from what is online now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from numpy.typing import NDArray

from models.candidates.build import ids_there
from models.candidates.nearest import Nearest
from models.candidates.spec import ALL, CandidateSource, NearestToMember, Neighbours, Popular
from models.candidates.votes import Floats, Ids, last_liked, together
from models.lines import catalogue_lines, similarity_of
from models.quantization import from_int8
from operations.composition import served_fits, sources_of
from operations.fits import Fits
from serving.recommend.cache import Kept
from serving.recommend.member import NOBODY, Member
from serving.request.item_table import open_item_table
from stores.read import Features, Reader
from transformations import clock, names
from transformations.attributes import as_values
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.item_kinds import predicted_kinds
from transformations.signs import read_by_signs, signs_of

Find = Callable[[Any, Member], tuple[Ids, Floats]]


LISTS_KEPT = 5.0
"""Seconds for which a list that many members share is not read again."""


@dataclass(frozen=True)
class Found:
    """What a source brings for a member.

    Attributes:
        items: Ids, the best first.
        scores: float32 [items].
        why_none: Why there are none, where there are none.
    """

    source: CandidateSource
    items: Ids
    scores: Floats
    why_none: str = ""


class Candidates:
    """The candidates of members; make it once, and again when another release answers.

    Args:
        store: A feature store that `stores.read.Reader` reads.
        served: The fits that answer. Default: those of the release that serves.

    Attributes:
        fits: Line of each source that brings something → the view or aggregator that it reads.
    """

    def __init__(self, config: Config, store: FeatureStore, served: Fits | None = None) -> None:
        self.config, self.store = config, store
        self.served = served_fits(config) if served is None else served
        self._by_sign = sorted(read_by_signs(config.rules))
        columns = ["item_ids", "actions", "event_timestamps", *self._by_sign]
        self._readers: list[Reader] = []
        self.fits: dict[str, str] = {}
        self._sequences = self.reader(
            [f"{names.SEQUENCE_VIEW}:{name}" for name in columns], event_timestamps=True
        )
        self._finders: list[tuple[CandidateSource, Find | str]] = [
            (line, KINDS[type(line)](self, line)) for line in sources_of(config, self.served)
        ]

    def of(self, member: Any, known: Member | None = None) -> list[Found]:
        """Return what every source brings for a member; an unknown one gets what needs no actions.

        Args:
            known: Its last actions. Default: as they are online.

        Raises:
            ReadError: not a member's id.
        """
        known = self.member(member) if known is None else known
        nothing, found = (np.zeros(0, np.int64), np.zeros(0, np.float32)), []
        for source, find in self._finders:
            if isinstance(find, str):
                found.append(Found(source, *nothing, why_none=find))
            else:
                items, scores = find(member, known)
                why = "" if len(items) else source.nothing
                found.append(Found(source, items[: source.count], scores[: source.count], why))
        return found

    def popular(self) -> list[Found]:
        """Return what the sources bring that need no member: the lists of everybody."""
        return [
            Found(source, *find(None, NOBODY))
            for source, find in self._finders
            if isinstance(source, Popular) and not isinstance(find, str)
        ]

    def member(self, member: Any) -> Member:
        """Return a member's last actions, as the online store has them; none of an unknown one."""
        return self.members([member])[0]

    def members(self, members: Sequence[Any]) -> list[Member]:
        """As `member`, of several that are read together."""
        rows = self._sequences.read({"member_id": list(members)})
        return [self._member(rows, number) for number in range(len(members))]

    def _member(self, rows: Features, number: int) -> Member:
        items, actions = rows["item_ids"][number] or [], rows["actions"][number] or []
        at = rows.event_timestamps[names.SEQUENCE_VIEW][number]
        rules = self.config.rules
        known = {name: rules.action_code(name) for name in rules.actions}
        codes = np.array([known.get(action, 0) for action in actions], np.int32)
        read = {}
        for name in self._by_sign:
            listed = rows[name][number] or [None] * len(items)
            read[name] = as_values(rules.attributes[name], pa.array(listed))
        return Member(
            items,
            signs_of(rules, codes, read),
            actions,
            rows["event_timestamps"][number] or [],
            None if np.isnat(at) else at.astype("M8[us]").item().replace(tzinfo=UTC),
        )

    def reader(self, features: Sequence[str], event_timestamps: bool = False) -> Reader:
        """Return a reader of features, which `close` closes.

        Raises:
            InputError: no run has registered their view yet.
        """
        try:
            self._readers.append(Reader(self.store, features, event_timestamps=event_timestamps))
        except FeastObjectNotFoundException as error:
            raise InputError(
                f"expected a view that a run has registered and published, got none: {error}; "
                "first: activity run"
            ) from None
        return self._readers[-1]

    def close(self) -> None:
        """Close the connections."""
        # The finders hold this in turn, and no garbage collection looks at what serves.
        self._finders = []
        for reader in self._readers:
            reader.close()


def _popular(self: Candidates, line: Popular) -> Find:
    view, by = line.view(self.config.space), line.profile
    self.fits[str(line)] = view
    reader = self.reader([f"{view}:item_ids", f"{view}:scores"])
    profiles = None if by is None else (self.reader([f"{names.PROFILE_VIEW}:{by}"]), by)

    def find(member: Any, _: Member) -> tuple[Ids, Floats]:
        segments = [ALL]
        if profiles is not None and member is not None:
            of_member, column = profiles
            value = of_member.read({"member_id": [member]})[column][0]
            segments = [value, ALL] if value is not None else segments
        return kept.of(tuple(segments), lambda: listed(segments))[0]

    def listed(segments: list[Any]) -> tuple[Ids, Floats]:
        rows = reader.read({line.key: segments})
        own = next((row for row, listed in enumerate(rows["item_ids"]) if listed), 0)
        return _ids(self.config, rows["item_ids"][own]), _scores(rows["scores"][own])

    # The same for many members, and new only after a run or a refresh.
    kept: Kept[tuple[Ids, Floats]] = Kept(LISTS_KEPT)
    return find


def _neighbours(self: Candidates, line: Neighbours) -> Find | str:
    space = self.served.spaces[line.of]
    if not self.served.is_made(space):
        return f"{space} is not fitted yet"
    view = self.fits[str(line)] = line.view(space)
    reader = self.reader([f"{view}:item_ids", f"{view}:scores"])

    def find(_: Any, member: Member) -> tuple[Ids, Floats]:
        liked = last_liked(member.items, member.signs, line.last)
        if not liked:
            return _ids(self.config, []), _scores([])
        rows = reader.read({line.key: liked})
        votes = line.decay ** np.arange(len(liked))
        return together(
            [_ids(self.config, listed) for listed in rows["item_ids"]],
            [vote * _scores(listed) for vote, listed in zip(votes, rows["scores"], strict=True)],
            line.count,
        )

    return find


def _nearest(self: Candidates, line: NearestToMember) -> Find | str:
    config = self.config
    lines = self.served.made(catalogue_lines(config))
    made = {f"{one.name}_v{one.version}": one for one in lines}
    if line.aggregator not in made:
        return f"{line.aggregator} is not trained yet"
    aggregator = made[line.aggregator]
    self.fits[str(line)] = aggregator.view
    own = aggregator.config_of(config)
    positive = {names.vector_field(n) for n, a in config.rules.actions.items() if a.can_be_positive}
    fields = [
        field
        for field in aggregator.vectors(config)
        if field == names.SINGLE_VECTOR or field in positive
    ]
    is_int8 = aggregator.stored_as(config) == "int8"
    columns = [names.stored(field) if is_int8 else field for field in fields]
    reader = self.reader([f"{aggregator.view}:{column}" for column in columns])
    now = clock.now()
    table = open_item_table(own).at(now)
    kinds = predicted_kinds(config, aggregator.predicted(config))
    with connect(config) as con:
        there = ids_there(config, con, now, kinds)
    rows = table.rows(there)
    there = np.array(there.to_pylist())
    no_vector = np.zeros((0, own.dim), np.float32)
    nearest = Nearest(table.vectors[rows], similarity_of(config, aggregator))

    def find(member: Any, _: Member) -> tuple[Ids, Floats]:
        read = reader.read({"member_id": [member]})
        vectors = [_vector(read[column]) for column in columns if read.present[column][0]]
        found, scores = nearest.of(np.concatenate([no_vector, *vectors]), line.count)
        return together(
            [there[each[each >= 0]] for each in found],
            [score[each >= 0] for each, score in zip(found, scores, strict=True)],
            line.count,
            "max",
        )

    return find


KINDS: dict[type[CandidateSource], Callable[[Candidates, Any], Find | str]] = {
    Popular: _popular,
    Neighbours: _neighbours,
    NearestToMember: _nearest,
}
"""Kind of a line → what finds its candidates online, or why nothing does."""


def _vector(read: NDArray[Any]) -> Floats:
    """Return a vector that was read, float32 [1, dim], also one that is kept as int8."""
    if read.dtype != object:
        return read
    return from_int8(np.frombuffer(read[0], np.uint8)[None])


def _ids(config: Config, listed: Sequence[Any] | None) -> Ids:
    return np.array(listed or [], np.int64 if config.item_id_type == "int64" else object)


def _scores(listed: Sequence[float] | None) -> Floats:
    return np.array(listed or [], np.float32)
