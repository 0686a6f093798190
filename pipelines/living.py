"""Days that pass in a workspace: members come and are shown lists, then the nightly run is made.

    midnight: run ──► visits of the day: recommend, note what was shown, act ──► sources ──► …

The clock is the simulation's (`transformations/clock.py`): at midnight while the run is made, which
takes no time there, and at each visit's time while it is answered. All that takes part is what a
user has: `activity run`, the recommender, its log of impressions. The hidden taste stays in
`pipelines/datasets/closed_loop.py`: here only lists go in, and events come out.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from operations.ledger import Ledger
from operations.rhythm import plan
from pipelines.datasets.closed_loop import ClosedLoop, Visit, write_day
from pipelines.rhythm import run_due, run_whole
from serving import publish
from serving.recommend.asked import Answer, Request
from serving.recommend.impressions import open_impressions
from serving.recommend.parts import open_parts, reopening
from serving.recommend.recommend import Recommender
from serving.recommend.standby import WorkspaceStandby
from transformations import clock
from transformations.config import Config

Answered = Callable[[Visit, Answer, Recommender], object]
"""Is told of each answer, before the member acts."""


class Living:
    """A workspace in which days pass; use it as a context, in which the clock is moved.

    Args:
        config: Reads its sources from `folder`.
        market: Who comes, and what they do.
        folder: Of the sources.
        console: Where the runs say what they do.
        answered: Is told of each answer.
    """

    def __init__(
        self,
        config: Config,
        market: ClosedLoop,
        folder: Path,
        console: Console,
        answered: Answered = lambda *_: None,
    ) -> None:
        self.config, self.market, self._folder = config, market, folder
        self._console, self._answered = console, answered
        self.time = market.midnight(market.first)
        self._recommender: Recommender | None = None
        self._open = ExitStack()

    def __enter__(self) -> "Living":
        self._open.enter_context(clock.moved(lambda: self.time))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def begin(self, backfill: int) -> None:
        """Make the first run, at the first lived midnight, and its past days."""
        ledger = Ledger(self.config)
        with ledger.lock():
            run_whole(self.config, self.time, backfill, ledger, self._console)

    def day(self, day: int, spoilt: Callable[[Path, datetime], object] | None = None) -> None:
        """Let a day pass: its visits, its events into the sources, and the run after it.

        Args:
            spoilt: Does something to the sources before the run, as a fault would; it gets their
                folder and the day's midnight.

        Raises:
            RunFailedError: a part of the run failed; the day has passed.
        """
        self.visits(day)
        self.time = self.market.midnight(day + 1)
        if spoilt is not None:
            spoilt(self._folder, self.market.midnight(day))
        self.night()

    def visits(self, day: int) -> None:
        """Let the members of a day come; write down what they were shown and what they did."""
        recommender = self._fresh()
        with self._noted(recommender) as add:

            def show(visit: Visit) -> list[int]:
                self.time = visit.at
                name = f"{self.market.start}/{visit.day}/{visit.number}"
                request = Request(visit.member_id, id=str(uuid.uuid5(uuid.NAMESPACE_OID, name)))
                answer = recommender.of(request)
                self._answered(visit, answer, recommender)
                add(answer)
                return [item.item_id for item in answer.items]

            rows = self.market.live(day, show)
        write_day(self._folder, self.market.midnight(day), rows)

    def night(self) -> None:
        """Make what is due, as `activity run` does."""
        ledger = Ledger(self.config)
        planned = plan(self.config, ledger)
        if planned.due:
            with ledger.lock():
                run_due(self.config, planned, ledger, self._console)

    @contextmanager
    def _noted(self, recommender: Recommender) -> Iterator[Callable[[Answer], object]]:
        """Open the log of what is shown; it is on disk afterwards."""
        impressions = open_impressions(self.config, recommender.metrics)
        if impressions is None:
            yield lambda _: None
            return
        try:
            yield lambda answer: impressions.add(answer, {})
        finally:
            impressions.close()

    def _fresh(self) -> Recommender:
        """Return the recommender, which has looked at what is new."""
        if self._recommender is None:
            config, store = self.config, publish.open_store(self.config)
            self._recommender = self._open.enter_context(
                Recommender(
                    config,
                    open_parts(config, store),
                    reopening(config, store),
                    rng=lambda: np.random.default_rng(int(self.time.timestamp())),
                    standby=WorkspaceStandby(config, store),
                )
            )
        self._recommender.refresh()
        return self._recommender
