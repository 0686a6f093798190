"""Labels as a ranker's inputs and targets: what it would have been asked, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore

from models.candidates.spec import CandidateSource, NearestToMember
from models.lines import catalogue_lines
from models.rankers.history import Categories
from models.rankers.inputs import Floats, Labelled
from models.rankers.reading import (
    Members,
    Needs,
    Read,
    Vectors,
    inputs_of,
    items_of,
    members_of,
    vector_of,
)
from models.rankers.spec import Ranker
from models.spec import Aggregator
from operations.composition import sources_of
from operations.fits import Fits
from pipelines.ranking.candidates import Lists, candidates_at, positive_fields
from pipelines.ranking.examples import Pairs, draw, ranks_of, targets_of
from pipelines.ranking.joined import join
from pipelines.ranking.labels import Labels, items_of_days
from transformations.config import Config
from transformations.timestamps import DAY_US


@dataclass(frozen=True, eq=False)
class Known:
    """What is read of labels in a workspace: the ranker's needs, and those of the sources.

    Attributes:
        fits: What the sources read.
        lines: Aggregators that are made, as the catalogue names them.
    """

    config: Config
    store: FeatureStore
    needs: Needs
    fits: Fits
    sources: Sequence[CandidateSource]
    lines: Mapping[str, Aggregator]
    categories: Categories

    @classmethod
    def of(
        cls,
        config: Config,
        store: FeatureStore,
        needs: Needs,
        categories: Categories,
        fits: Fits | None = None,
    ) -> "Known":
        """Return it for a workspace as it is.

        Args:
            fits: Those of a release. Default: the newest.
        """
        fits = Fits(config) if fits is None else fits
        made = fits.made(catalogue_lines(config))
        lines = {f"{line.name}_v{line.version}": line for line in made}
        return cls(config, store, needs, fits, sources_of(config, fits), lines, categories)

    def by_sources(self) -> dict[str, Vectors]:
        """Return the vectors that candidate sources search with, by aggregator."""
        wanted = {one.aggregator for one in self.sources if isinstance(one, NearestToMember)}
        return {n: Vectors.of(self.config, line) for n, line in self.lines.items() if n in wanted}

    def features(self) -> tuple[list[str], dict[str, int]]:
        """Return the features of members, and the dimension of each vector by result name."""
        wanted = dict.fromkeys(self.needs.of_members(self.config.rules))
        dims = {}
        for one in (*self.needs.vectors, *self.by_sources().values()):
            for kept in one.fields.values():
                wanted.setdefault(f"{one.view}:{kept}")
                if not kept.startswith("stored_"):
                    dims[f"{one.view}__{kept}"] = one.dim
        return list(wanted), dims

    def read(self, labels: Labels) -> Read:
        """Return what could be read of each label's member at its time."""
        features, dims = self.features()
        return join(self.store, features, {"member_id": labels.members}, labels.timestamps, dims)

    def members(self, labels: Labels, read: Read) -> Members:
        """Return the labels' members as the ranker sees them."""
        rules, ids = self.config.rules, labels.members.tolist()
        return members_of(rules, self.needs, read, ids, labels.times, labels.context)

    def candidates(
        self, con: Connection, labels: Labels, read: Read, members: Members
    ) -> dict[str, Lists]:
        """Return what each source would have brought."""
        vectors: dict[str, list[Floats]] = {}
        for name, one in self.by_sources().items():
            positive = positive_fields(self.config, self.lines[name])
            vectors[name] = [
                vector_of(read, f"{one.view}__{kept}", one.dim)
                for kept in one.fields.values()
                if kept in positive or kept.removeprefix("stored_") in positive
            ]
        return candidates_at(
            self.config,
            con,
            self.store,
            self.sources,
            labels,
            members.actions,
            vectors,
            self.lines,
            self.fits,
        )

    def labelled(
        self,
        labels: Labels,
        members: Members,
        pairs: Pairs,
        candidates: Mapping[str, Lists],
        heads: Mapping[str, float],
    ) -> Labelled:
        """Return pairs as inputs and targets."""
        dims = {f"{one.item_view}__embedding": one.dim for one in self.needs.vectors}
        wanted = self.needs.of_items()
        times = labels.times[pairs.labels]
        read: Read = join(
            self.store, wanted, {"item_id": pairs.items}, labels.timestamps[pairs.labels], dims
        )
        items = items_of(self.needs, read, pairs.items, times, self.categories)
        inputs = inputs_of(
            self.needs,
            members,
            items,
            pairs.items,
            self.categories,
            pairs.labels,
            np.arange(len(pairs.items)),
            ranks_of(candidates, pairs.labels, pairs.items),
        )
        return Labelled(
            inputs,
            targets_of(heads, labels, pairs),
            np.ones(len(pairs.items), np.float32),
            pairs.labels,
            np.full(len(pairs.items), -1, np.int64),
        )

    def drawn(
        self,
        line: Ranker,
        labels: Labels,
        members: Members,
        candidates: Mapping[str, Lists],
        seed: int,
    ) -> Pairs:
        """Return the labels' own items and negatives."""
        days = items_of_days(labels)
        of_days: list[Any] = [days[int(day)] for day in labels.times // DAY_US]
        acted = members.actions
        seen = [acted.items[row][acted.there[row]] for row in range(len(labels))]
        return draw(line, labels, seen, candidates, of_days, seed)
