"""A member's vectors as of now: the sequence from the online store, the model in this process.

The rule of a sequence is transformations/stream.py's, the padding models/sequences.py's and the
vector the packaged aggregator's, as everywhere else. What is new is only where they run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from models.sequences import pad
from models.spec import Aggregator
from serving.request.item_table import ItemVersions, open_item_table, table_key
from serving.request.models import Models, current_catalogue, packaged_of, weights_of
from serving.request.sequences import FIELDS, Event, Id, check_ids, stored_states, unseen
from stores.read import Reader
from transformations.config import Config
from transformations.errors import InputError
from transformations.names import SEQUENCE_VIEW
from transformations.stream import fold, microseconds, to_sequences

ID_TYPES = {"int64": pa.int64(), "string": pa.string()}


@dataclass(frozen=True)
class Embedded:
    """What a request gets; row i belongs to the i-th member asked for.

    Attributes:
        as_of: The moment that the vectors are of.
        vectors: View → field → float32 [members, dim].
        counts: n_actions and n_<action> → int64 [members], as in the views.
        last_action_at: datetime64[us] [members] in UTC, NaT where no action is known.
        sequence_at: datetime64[us] [members] in UTC: the moment of the row in the online store
            (its whole second), NaT where the store has none.
        model_versions: View → what made the vectors.
        held_back: How many of the request's events are not before as_of, and so did not count.
    """

    as_of: datetime
    vectors: dict[str, dict[str, NDArray[np.float32]]]
    counts: dict[str, NDArray[np.int64]]
    last_action_at: NDArray[np.datetime64]
    sequence_at: NDArray[np.datetime64]
    model_versions: dict[str, str]
    held_back: int


class RequestTime:
    """Answers for one configuration and one feature store. Threads may share it.

    Args:
        catalogue: Returns the aggregators to serve, anew at each `refresh`; those that are not
            packaged yet are left out until they are.

    Raises:
        InputError: no aggregator is packaged, one is not as the catalogue says, or there are no
            item vectors.
        stores.read.ReadError: the online store is none that can be read.
        feast.errors.FeastObjectNotFoundException: the views were never applied.
    """

    def __init__(
        self,
        config: Config,
        store: FeatureStore,
        catalogue: Callable[[], Sequence[Aggregator]] | None = None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue or current_catalogue
        fields = [f"{SEQUENCE_VIEW}:{name}" for name in FIELDS]
        self._reader = Reader(store, fields, event_timestamps=True)
        packaged = packaged_of(config, self._catalogue())
        if not packaged:
            raise InputError(
                f"expected at least one packaged aggregator in {config.layout.artifacts}, found "
                "none; first: activity run"
            )
        # Both change together or not at all: a request takes them once and keeps them.
        self._state = (open_item_table(config), Models(config, packaged))

    def embed(
        self,
        member_ids: Sequence[Id],
        events: Sequence[Event] = (),
        as_of: datetime | None = None,
    ) -> Embedded:
        """Return the members' vectors: what embed_snapshot would write for the same events.

        A member that the store does not know has the vector of an empty sequence.

        Args:
            member_ids: Of the configured type; one may come twice.
            events: Actions of these members that the store may not have seen yet. One that it has
                (same item and action in the same second) counts once. At or after as_of it does
                not count.
            as_of: Default: now. Not before the moment of a member's stored row, which no longer
                holds what the window held then.

        Raises:
            InputError: an id of another type, an event of another member or of an unknown
                action, an as_of before a stored row's.
            stores.read.ReadError: the store holds no such table.
        """
        items, models = self._state
        moment = datetime.now(UTC) if as_of is None else as_of.astimezone(UTC)
        if not member_ids:
            raise InputError("expected at least one member, got none")
        check_ids(self._config.rules, "member", member_ids)
        places = {member: place for place, member in enumerate(dict.fromkeys(member_ids))}
        stored = self._reader.read({"member_id": list(places)})
        ids = pa.array(list(places), ID_TYPES[self._config.id_type])
        sequence_at = stored.event_timestamps[SEQUENCE_VIEW]
        if as_of is not None:
            _refuse_past(ids, sequence_at, moment)
        states = stored_states(self._config.rules, stored)
        arrived = unseen(self._config.rules, states.actions, events, places)
        now = microseconds(moment)
        folded = fold(self._config.rules, states, arrived, now)
        rows = to_sequences(self._config.rules, ids, folded.states, now, moment)
        padded = pad(rows, items.at(moment), self._config.rules, moment)
        found = Embedded(
            as_of=moment,
            vectors=models.embed(items.vectors, padded),
            counts={name: rows[name].to_numpy() for name in self._config.rules.count_columns},
            last_action_at=folded.states.last.view("M8[us]"),  # NEVER is NaT's number
            sequence_at=sequence_at,
            model_versions={m.aggregator.view: m.model_version for m in models.loaded},
            held_back=folded.held,
        )
        if len(places) == len(member_ids):
            return found
        return _spread(found, np.array([places[member] for member in member_ids]))

    def embed_nobody(self) -> Embedded:
        """Go the whole way for one id that no member should have: what fails here fails for all."""
        return self.embed([-(2**63) if self._config.id_type == "int64" else ""])

    def refresh(self) -> bool:
        """Take what is new: item parts, lines of the catalogue, packages. Return whether any was.

        Requests go on with the old until the new is loaded and compiled. Whatever fails leaves
        the old in its place.
        """
        items, models = self._state
        lines = self._catalogue()
        packaged = packaged_of(self._config, lines)
        # A line whose package is gone for a moment (removed, to be made again) is served on.
        gone = {line.view for line in lines} - {line.view for line in packaged}
        weights = {line.view: weights_of(self._config, line) for line in packaged}
        if weights != models.weights and not gone & models.weights.keys():
            models = Models(self._config, packaged)
        if table_key(self._config) != items.key:
            items = open_item_table(self._config)
        changed = (items, models) != self._state
        self._state = (items, models)
        return changed

    @property
    def items(self) -> ItemVersions:
        """The item table that requests use now."""
        return self._state[0]

    @property
    def models(self) -> Models:
        """The models that requests use now."""
        return self._state[1]

    def close(self) -> None:
        """Close the connections to the online store."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_past(ids: pa.Array, sequence_at: NDArray[np.datetime64], as_of: datetime) -> None:
    late = np.flatnonzero(sequence_at > np.datetime64(as_of.replace(tzinfo=None), "us"))
    if len(late):
        at = sequence_at[late[0]]
        raise InputError(
            f"expected an as_of of {at} UTC or later, since when the online store holds the "
            f"sequence of member {ids[int(late[0])].as_py()!r}, got {as_of:%Y-%m-%dT%H:%M:%S.%f}; "
            "earlier moments are what snapshots (activity backfill) and training joins are for"
        )


def _spread(found: Embedded, rows: NDArray[np.int64]) -> Embedded:
    """Return a row for each member asked for, where one was asked for twice."""
    return Embedded(
        as_of=found.as_of,
        vectors={
            view: {field: vectors[rows] for field, vectors in fields.items()}
            for view, fields in found.vectors.items()
        },
        counts={name: counts[rows] for name, counts in found.counts.items()},
        last_action_at=found.last_action_at[rows],
        sequence_at=found.sequence_at[rows],
        model_versions=found.model_versions,
        held_back=found.held_back,
    )
