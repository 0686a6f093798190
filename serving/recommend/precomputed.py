"""Lists that are made before anybody asks: by a run for active members; read when ranking fails."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np

from serving.recommend.candidates import Candidates
from serving.recommend.items import ItemFacts
from serving.recommend.member import Member
from serving.recommend.rules import Pool, listed
from serving.recommend.scored import VOTES, Scored, as_ids, fused
from serving.recommend.scoring import Scoring
from stores.read import Reader
from transformations.config import Config
from transformations.names import RECOMMENDATIONS_VIEW

FEATURES = [
    f"{RECOMMENDATIONS_VIEW}:{name}" for name in ("item_ids", "scores", "ranker", "release")
]
LONGER = 2
"""How many times `recommend.n` items a list has: what is asked for then leaves some of them out."""


class OnlineLists:
    """The lists of `member_recommendations_v1`, as they are online; threads may share it.

    Args:
        reader: Of FEATURES.
        release: Only lists that it made; None: all.
    """

    def __init__(self, reader: Reader, release: int | None = None) -> None:
        self._reader, self._release = reader, release

    def of(self, member: Any) -> Scored | None:
        """Return a member's list; None where it has none, or one of another release."""
        row = self._reader.read({"member_id": [member]})
        items, ranker = row["item_ids"][0], row["ranker"][0]
        if not items or (self._release is not None and row["release"][0] != str(self._release)):
            return None
        fits = {} if ranker == VOTES else {"ranker": ranker}
        scores = np.array(row["scores"][0], np.float32)
        return Scored(as_ids(list(items)), scores, [{} for _ in items], ranker=ranker, fits=fits)


def made_before(
    config: Config,
    sources: Candidates,
    items: ItemFacts,
    scoring: Scoring | None,
    members: Sequence[Any],
    now: datetime,
) -> list[Scored]:
    """Return the list of each member, the best score first; empty where nothing may stand in it.

    They are made as the service makes them, from what is online at this moment.

    Args:
        scoring: None: the sources' votes order.
    """
    known = sources.members(members)
    found = [sources.of(one, its) for one, its in zip(members, known, strict=True)]
    if scoring is None:
        scored = [fused(each) for each in found]
    else:
        scored = scoring.of_many(members, found, now)
    is_out = cache(lambda item: items.is_out(item, now))  # members share most candidates
    return [
        _kept(config, items, is_out, member, its, now)
        for member, its in zip(known, scored, strict=True)
    ]


def _kept(
    config: Config,
    items: ItemFacts,
    is_out: Callable[[Any], bool],
    member: Member,
    scored: Scored,
    now: datetime,
) -> Scored:
    """Return what the rules keep that need no request.

    Scores stay the ranker's: boosts decide what is kept, and count once, when the list is served.
    So do diversity, pins and chance, which belong to a list of its final length.
    """
    every = config.recommend.rules
    rules = every.model_copy(update={"diversity": 0.0, "explore": 0.0, "pinned": []})
    acted: frozenset[Any] = frozenset()
    if rules.leave_out_acted is not None:
        acted = member.acted_since(now - rules.leave_out_acted, rules.leave_out_actions)
    columns = items.columns(rules.columns, scored.items.tolist())
    places = listed(
        Pool(scored.items, scored.scores, columns),
        rules,
        LONGER * config.recommend.n,
        lambda _: None,
        acted,
        is_out,
    )
    rows = np.array([place.row for place in places], np.int64)
    rows = rows[np.argsort(-scored.scores[rows], kind="stable")]
    return Scored(
        scored.items[rows],
        scored.scores[rows],
        [scored.sources[row] for row in rows],
        ranker=scored.ranker,
        fits=scored.fits,
    )
