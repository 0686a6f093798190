"""A member's vectors as of now: the sequence from the online store, the model in this process.

As everywhere else, transformations/stream.py has the rule of a sequence, models/sequences.py the
padding, and the packaged aggregator computes the vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from models.item_versions import ItemVersions
from models.items.searches import SearchVectors, WithSearches
from models.lines import by_space
from models.packaging import Loaded
from models.sequences import pad
from models.spec import Aggregator
from operations.fits import embedded_lines
from serving.request.item_table import open_item_table, table_key
from serving.request.models import CompiledModels, packaged_of, weights_of
from serving.request.sequences import Event, Id, LatestSequences, checked_ids
from serving.searches import search_vectors
from serving.times import out_of_bounds
from transformations import clock
from transformations.config import Config
from transformations.durations import said
from transformations.errors import InputError
from transformations.member_columns import member_columns
from transformations.timestamps import microseconds


@dataclass(frozen=True)
class Embedded:
    """The answer to a request; row i belongs to the i-th requested member.

    Attributes:
        as_of: The timestamp of the vectors.
        vectors: View → field → float32 [members, dim].
        columns: Member column (transformations/member_columns.py) → its values [members], as in
            the views; timestamps as datetime64[us] in UTC, NaT where there is none.
        sequences: The rows of member_sequences that they were made from [members].
        sequence_at: datetime64[us] [members] in UTC: the online row's timestamp (its whole
            second), NaT where the store has none.
        model_versions: View → version of the model that made its vectors.
        held_back: How many of the request's events are at or after as_of, and so do not count.
    """

    as_of: datetime
    vectors: dict[str, dict[str, NDArray[np.float32]]]
    columns: dict[str, NDArray[Any]]
    sequences: pa.RecordBatch
    sequence_at: NDArray[np.datetime64]
    model_versions: dict[str, str]
    held_back: int


class RequestTime:
    """Computes vectors for one configuration and one feature store; threads may share it.

    Args:
        catalogue: Returns the aggregators to serve; called again at each `refresh`. Those that
            are not packaged yet are left out until they are.

    Raises:
        InputError: no aggregator is packaged, a package differs from its catalogue line, or there
            are no item vectors.
        stores.read.ReadError: the kind of the online store cannot be read.
        feast.errors.FeastObjectNotFoundException: the views were never applied.
    """

    def __init__(
        self,
        config: Config,
        store: FeatureStore,
        catalogue: Callable[[], Sequence[Aggregator]] | None = None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue or partial(embedded_lines, config)
        self._latest = LatestSequences(config, store)
        packaged = packaged_of(config, self._catalogue())
        if not packaged:
            raise InputError(
                f"expected at least one packaged aggregator in {config.layout.artifacts}, got "
                "none; first: activity run"
            )
        # One tuple, so that all change together: a request reads it once.
        self._store = store
        self._spaces = tuple(
            self._in_space(own, lines) for own, lines in by_space(config, packaged)
        )

    def _in_space(self, config: Config, lines: Sequence[Aggregator]) -> "_InSpace":
        return _InSpace(
            config,
            open_item_table(config),
            CompiledModels(config, lines),
            search_vectors(config, self._store),
        )

    def embed(
        self,
        member_ids: Sequence[Id],
        events: Sequence[Event] = (),
        as_of: datetime | None = None,
    ) -> Embedded:
        """Return the members' vectors: what embed_snapshot would write for the same events.

        A member without a row in the store has the vector of an empty sequence.

        Args:
            member_ids: Of the configured type, or converted to it; repetitions are allowed.
            events: Actions of these members that the store may not have yet. One that it has (same
                item and action in the same second) counts once. At or after as_of it does not
                count.
            as_of: Default: now. Not before the timestamp of a member's stored row, which no longer
                holds what the window held then.

        Raises:
            InputError: an id of another type, an event of another member or of an unknown
                action, a text that cannot be read, a time before events.earliest or after
                events.latest, or an as_of before a stored row.
            stores.read.ReadError: the store holds no such table.
        """
        spaces = self._spaces
        if not member_ids:
            raise InputError("expected at least one member, got none")
        for name, given in (
            *((("as_of", as_of),) if as_of is not None else ()),
            *(("event_timestamp", event.event_timestamp) for event in events),
        ):
            rules = self._config.rules
            wrong = out_of_bounds(rules, microseconds(given), clock.now())
            if wrong is not None:
                raise InputError(
                    f"{name} {given.isoformat()} {wrong}: expected a time from "
                    f"{rules.earliest:%Y-%m-%d} to {said(rules.latest)} ahead; integers are "
                    "microseconds"
                )
        member_ids = checked_ids(self._config.rules, "member", member_ids)
        index = {member: row for row, member in enumerate(dict.fromkeys(member_ids))}
        latest = self._latest.of(list(index), events, as_of)
        rows, timestamp = latest.rows, latest.as_of
        vectors: dict[str, dict[str, NDArray[np.float32]]] = {}
        for space in spaces:
            learned = space.searches.learn(latest.texts)
            items = space.searches.over(
                space.items.at(timestamp), rows["item_ids"].flatten(), learned
            )
            padded, table = pad(rows, items, self._config.rules, timestamp), items.vectors
            if isinstance(items, WithSearches):
                padded, table = items.gathered(padded)
            vectors |= space.models.embed(table, padded)
        embedded = Embedded(
            as_of=timestamp,
            vectors=vectors,
            columns={
                column.name: rows[column.name].to_numpy(zero_copy_only=False)
                for column in member_columns(self._config.rules)
            },
            sequences=rows,
            sequence_at=latest.sequence_at,
            model_versions={
                model.aggregator.view: model.model_version
                for space in spaces
                for model in space.models.loaded
            },
            held_back=latest.held_back,
        )
        if len(index) == len(member_ids):
            return embedded
        return _spread(embedded, np.array([index[member] for member in member_ids]))

    def embed_nobody(self) -> Embedded:
        """Run a full request for a non-existent member; what fails here fails for all."""
        return self.embed([-(2**63) if self._config.member_id_type == "int64" else ""])

    def refresh(self) -> bool:
        """Load new item parts, catalogue lines and packages; return whether there were any.

        Requests use the old ones until the new ones are loaded and compiled. After a failure the
        old ones stay.
        """
        before = {space.config.space: space for space in self._spaces}
        lines = self._catalogue()
        packaged = packaged_of(self._config, lines)
        gone = {line.view for line in lines} - {line.view for line in packaged}
        if gone & {model.aggregator.view for model in self.loaded}:
            # A line whose package is missing for a moment, while it is made again, is served on.
            after = {space: old.with_new_items() for space, old in before.items()}
        else:
            after = {
                own.space: self._refreshed(before.get(own.space), own, of_space)
                for own, of_space in by_space(self._config, packaged)
            }
        changed = after != before
        self._spaces = tuple(after.values())
        return changed

    def _refreshed(
        self, old: "_InSpace | None", config: Config, lines: Sequence[Aggregator]
    ) -> "_InSpace":
        weights = {line.view: weights_of(config, line) for line in lines}
        if old is None:
            return self._in_space(config, lines)
        if old.models.weights != weights:
            old = replace(old, models=CompiledModels(config, lines))
        return old.with_new_items()

    @property
    def items(self) -> ItemVersions:
        """The item table of the first space, the newest fit's."""
        return self._spaces[0].items

    @property
    def loaded(self) -> list[Loaded]:
        """The aggregators that requests use now."""
        return [model for space in self._spaces for model in space.models.loaded]

    @property
    def traces(self) -> int:
        """How many graphs were built."""
        return sum(space.models.traces for space in self._spaces)

    def close(self) -> None:
        """Close the connections to the online store."""
        self._latest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _InSpace:
    """The items of one space, and the aggregators that read it."""

    config: Config
    items: ItemVersions
    models: CompiledModels
    searches: SearchVectors

    def with_new_items(self) -> "_InSpace":
        """Return it with the present item parts; itself where there are no new ones."""
        if table_key(self.config) == self.items.key:
            return self
        return replace(self, items=open_item_table(self.config))


def _spread(embedded: Embedded, rows: NDArray[np.int64]) -> Embedded:
    """Return one row per requested member, where some are requested more than once."""
    return Embedded(
        as_of=embedded.as_of,
        vectors={
            view: {field: vectors[rows] for field, vectors in fields.items()}
            for view, fields in embedded.vectors.items()
        },
        columns={name: values[rows] for name, values in embedded.columns.items()},
        sequences=embedded.sequences.take(pa.array(rows)),
        sequence_at=embedded.sequence_at[rows],
        model_versions=embedded.model_versions,
        held_back=embedded.held_back,
    )
