"""What answers are made from, opened together and replaced together when something is new."""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from feast import FeatureStore

from models.lines import catalogue_lines, ranker_lines
from operations.composition import served_fits
from operations.fits import Fits
from operations.rankers import newest
from serving.recommend.candidates import Candidates
from serving.recommend.items import ItemFacts
from serving.recommend.member import Member
from serving.recommend.precomputed import FEATURES, OnlineLists
from serving.recommend.scored import Lists, NoLists, Precomputed, Scored, Scorer, fused
from serving.recommend.scoring import Scoring, open_scoring
from serving.request.item_table import table_key
from serving.request.vectors import RequestTime
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError
from transformations.layout import part_files

logger = logging.getLogger(__name__)


class Sources(Protocol):
    """Where candidates come from: serving.recommend.candidates.Candidates, or a stand-in."""

    @property
    def fits(self) -> Mapping[str, str]:
        """Line of each source → the view or aggregator that it reads, with its fit."""
        ...

    def member(self, member: Any) -> Member:
        """Return a member's last actions."""
        ...

    def of(self, member: Any, known: Member | None = None) -> Sequence[Lists]:
        """Return what every source brings for a member."""
        ...

    def popular(self) -> Sequence[Lists]:
        """Return what the sources bring that need no member: the lists of everybody."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, eq=False)
class Parts:
    """What an answer is made from.

    Attributes:
        scorer: None where no ranker is trained: then the sources' votes order.
        popular: What is the same for all members, in memory: it needs no store.
        state: Changes with what would be opened now (`state_of`).
        renew: Reads again what is kept of the store for a time, before that is over.
        release: Whose fits all of them are; None before there were releases.
    """

    sources: Sources
    items: ItemFacts
    scorer: Scorer | None = None
    lists: Precomputed = field(default_factory=NoLists)
    popular: Scored = field(default_factory=lambda: fused([]))
    state: Hashable = None
    renew: Callable[[], None] = lambda: None
    release: int | None = None


def lists_of(config: Config, sources: Candidates) -> Precomputed:
    """Return the lists that a run made, which `sources` closes; none before it made some."""
    if not config.recommend.precompute:
        return NoLists()
    try:
        return OnlineLists(sources.reader(FEATURES), sources.served.release)
    except InputError:  # the last run was by a version that made none
        return NoLists()


def open_parts(
    config: Config,
    store: FeatureStore,
    request_time: RequestTime | None = None,
    served: Fits | None = None,
    beside: Parts | None = None,
) -> Parts:
    """Open all that answers are made from: the parts of one release, and of no other.

    Args:
        request_time: Makes vectors with a request's own actions, for the ranker.
        served: The fits that answer. Default: those of the release that serves.
        beside: Parts of another release of the same time, whose items these share.

    Raises:
        InputError: nothing was run yet.
    """
    served = served_fits(config) if served is None else served
    state, release = state_of(config, served), served.release
    sources = Candidates(config, store, served)
    if beside is None:
        items = ItemFacts(config, clock.now(), served)
    else:
        items = beside.items.by(config, served)
    popular = popular_now(sources, items)
    scorer, lists = _scorer(config, store, request_time, served), lists_of(config, sources)
    if scorer is None:
        return Parts(sources, items, None, lists, popular, state, release=release)
    scorer.warm_up(items.newest[:WARM])
    return Parts(sources, items, scorer, lists, popular, state, scorer.renew, release)


def _scorer(
    config: Config, store: FeatureStore, request_time: RequestTime | None, served: Fits
) -> Scoring | None:
    """Return what scores; None, which is logged, where the ranker is damaged: then votes order."""
    try:
        return open_scoring(config, store, request_time, served)
    except InputError as error:
        logger.error("no ranker, the sources' votes order: %s", error)
        return None


def reopening(
    config: Config, store: FeatureStore, request_time: RequestTime | None = None
) -> Callable[[Parts], Parts | None]:
    """Return what opens new parts where there is something new, else returns None."""

    def reopen(parts: Parts) -> Parts | None:
        served = served_fits(config)
        if state_of(config, served) == parts.state:
            return None
        store.refresh_registry()
        return open_parts(config, store, request_time, served)

    return reopen


def popular_now(sources: Sources, items: ItemFacts) -> Scored:
    """Return the list for all: what the popular sources bring; without any, the newest items."""
    found = [each for each in sources.popular() if len(each.items)]
    return fused(found, () if found else items.newest[:NEWEST])


NEWEST = 1_000
WARM = 2_000
"""Items, the newest, that are read before the first request."""


def state_of(config: Config, served: Fits) -> Hashable:
    """Identify what there is to open: fits, lines that are made, staged items, item vectors."""
    staged, spaces = config.layout.staged_items, served.spaces.values()
    mark = (staged.stat().st_mtime_ns, staged.stat().st_size) if staged.exists() else None
    made = [own for own in map(config.in_space, spaces) if part_files(own.items_dir)]
    return (
        mark,
        tuple((str(own.space), table_key(own)) for own in made),
        tuple(sorted(line.view for line in served.made(catalogue_lines(config)))),
        tuple(map(str, newest(config, ranker_lines(config), served))),
        served.release,
    )
