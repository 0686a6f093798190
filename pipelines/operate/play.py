"""`activity demo operate`: the life of a release, week after week, in a market that answers.

week 1     the first release: what it shows changes what members do, which may stop fitting until
           somebody accepts it
week 2     ordinary days: a refit has gone through the gates
week 3     a source is at fault for two days when a refit is due: fitting pauses, an alert, it waits
week 4     the source is right again: the refit is made, and judged; the two days are in its labels
week 5     a ranker that learned the opposite is refused by a gate, and forced on a share of the
           members all the same; what they do takes it back
week 6, 7  a learned vector against three decayed ones, on half of the members each, whatever the
           gate says of it

What is planted stands in `faults.py`; the members and their taste in
`pipelines/datasets/closed_loop.py`. All else is what `activity run` does by itself at the
simulation's time. The true effect in weeks 6 and 7 is that of the lists: at every visit both
releases are asked, and the hidden taste says what each list would bring. What one of them alone
would have made of the members by then is not in it.
"""

import math
import time
from collections.abc import Callable, Collection
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from operations.composition import fits_of
from operations.drift import accept, standing
from operations.experiments.records import experiments
from operations.ledger import Ledger
from operations.releases import note_gates, release_of, releases, rollback, serving
from operations.traffic import traffic
from pipelines.datasets.closed_loop import ClosedLoop, Visit
from pipelines.datasets.market import Size
from pipelines.datasets.taste import REACTIONS
from pipelines.experiments.reading import read
from pipelines.living import Living
from pipelines.operate.faults import Spoilt, learn_the_opposite, saved_instead_of_applied
from pipelines.operate.record import Compared, Estimate, Record, Told, fill, ranker_of
from pipelines.operate.workspace import only, write_workspace
from pipelines.progress import Stages
from pipelines.releasing import release_what_is_published
from pipelines.sharing import begin_share
from pipelines.terminal import Terminal, escape
from serving import publish
from serving.recommend.asked import Answer, Request
from serving.recommend.parts import open_parts
from serving.recommend.recommend import Recommender
from transformations.config import CONFIG, Config
from transformations.duck import connect
from transformations.errors import RunFailedError

WEEKS, WEEK = 7, 7
BEFORE = 41
"""Simulated days before the first lived one."""
BACKFILLED = 10
VISITS = 2.0
"""Of the feed, per search for jobs."""
BAD_SHARE, AB_SHARE = 0.3, 0.5
ALERTS = "alerts.jsonl"
APPLY = REACTIONS.index("APPLY")
COLOURS = {"good": "green", "bad": "bold red", "open": "yellow", "muted": "dim"}


class Play:
    """The demo under way.

    Args:
        root: A folder that is not there yet; it becomes the workspace.
        size: Members and jobs; days are counted here.
        week: Days of a week, 2 or more; fewer make a shorter play, in which less is found.
        weeks: Which of them are played.
    """

    def __init__(
        self,
        root: Path,
        members: int,
        jobs: int,
        seed: int,
        end: datetime,
        console: Console,
        week: int = WEEK,
        weeks: Collection[int] = range(1, WEEKS + 1),
    ) -> None:
        self.root, self.console, self.week = root, console, week
        every: dict[int, tuple[str, Callable[[], None]]] = {
            1: ("the first release: what it shows changes what members do", self._first),
            2: ("ordinary days: a refit has gone through the gates", self._ordinary),
            3: ("a change of the tracking records applications as saves, two days", self._fault),
            4: ("the source is right again", self._ordinary),
            5: ("a ranker that learned the opposite is forced on some of the members", self._bad),
            6: ("a learned vector against three decayed ones, half of the members each", self._ab),
            7: ("the experiment goes on", self._more),
        }
        self._weeks = {number: every[number] for number in weeks}
        days = len(self._weeks) * week
        size = Size(members=members, jobs=jobs, days=BEFORE + days)
        self.market = ClosedLoop(size, seed, end, days, VISITS)
        self.config = write_workspace(root, self.market, ["decayed"], self._settings())
        start = self.market.midnight(self.market.first)
        self.record = Record(start, days, week, members, jobs, seed)
        self.said = StringIO()
        """What the runs say."""
        self.living = Living(
            self.config, self.market, root / "source", Terminal(file=self.said, width=160),
            self._answered,
        )  # fmt: skip
        self._expected: dict[tuple[int, int], list[float]] = {}
        self._both: dict[int, Recommender] = {}
        self._truth: list[tuple[int, float, float]] = []
        self._known, self._waited, self._pair = _State(), 0, (0, 0)

    def run(self) -> Record:
        """Live all weeks; return what was lived."""
        began = time.perf_counter()
        with self.living:
            self.living.begin(BACKFILLED)
            for number, (title, lived) in self._weeks.items():
                self.console.print(f"\n[bold]Week {number}[/] {escape(title)}", highlight=False)
                self.record.told.append(Told(self._today, "week", title))
                if not self._known.made:
                    self._look(0)
                lived()
            self.record.compared = self._compared()
        self.record.seconds = time.perf_counter() - began
        fill(self.record, self.config, self.root / "source", self._expected)
        alerts = self.root / ALERTS
        self.record.alerts = len(alerts.read_text().splitlines()) if alerts.exists() else 0
        return self.record

    def _settings(self) -> dict[str, Any]:
        return {
            "rhythm": {"spaces": f"{self.week}d", "rankers": f"{self.week}d"},
            "release": {
                "promote": "gated",
                "metric": "APPLY per impression",
                # Not latency: all members share this machine with the runs.
                "guardrails": ["negative per impression <= 10%", "filled >= -5%"],
                "weeks": max(2 * self.week // 7, 1),
            },
            # What the first lists show changes what members act on: other categories, other hours.
            "drift": {"only_warn": ["value", "stability", "chi-square", "ks distance", "items"]},
            "alerts": {"command": ["tee", "-a", ALERTS]},
        }

    def _first(self) -> None:
        self._days(self.week, between=self._person_expects)

    def _ordinary(self) -> None:
        self._days(self.week)

    def _fault(self) -> None:
        self._days(self.week - 2)
        self._days(2, spoilt=saved_instead_of_applied)

    def _bad(self) -> None:
        self._bad_release()
        self._days(self.week, between=self._person_looks)

    def _ab(self) -> None:
        if traffic(self.config).shared is not None:  # what it does could not be told in its week
            rollback(self.config, "its place is needed")
            self._tell(self._today, "open", "somebody takes back what still has a share")
            self._known = _State.of(self.config)
        self._begin_ab()
        self._days(self.week, between=self._person_looks)

    def _more(self) -> None:
        self._days(self.week, between=self._person_looks)

    def _days(
        self,
        count: int,
        spoilt: Spoilt | None = None,
        between: Callable[[int], object] = lambda _: None,
    ) -> None:
        for _ in range(count):
            day = self._today
            try:
                self.living.day(self.market.first + day, spoilt)
            except RunFailedError as error:
                self._tell(day + 1, "bad", f"a part of the run failed: {error}")
            self._look(day + 1)
            between(day + 1)

    @property
    def _today(self) -> int:
        return round(self.record.day_of(self.living.time))

    def _answered(self, visit: Visit, answer: Answer, _: Recommender) -> None:
        shown = [item.item_id for item in answer.items]
        if answer.release is not None:
            of = self._expected.setdefault((visit.day - self.market.first, answer.release), [])
            of.append(float(self.market.expected(visit, shown)[APPLY]))
        if self._both:
            lists = [
                [item.item_id for item in one.now(Request(visit.member_id)).items]
                for one in self._both.values()
            ]
            control, treatment = (
                float(self.market.expected(visit, items)[APPLY]) for items in lists
            )
            self._truth.append((visit.member_id, control, treatment))

    def _bad_release(self) -> None:
        """Make a release that learned the opposite, let the gates judge it, and force it."""
        day, at = self._today, self.living.time

        def make(stages: Stages) -> None:
            learn_the_opposite(self.config, at, stages)
            release_what_is_published(self.config, stages)

        self._do("train", make)
        self._look(day)
        newest = max(one.number for one in releases(self.config))
        self.record.notes[newest] = "learned the opposite: planted"
        self._force(newest, BAD_SHARE)

    def _force(self, number: int, share: float) -> None:
        """Give a release a share of the members, whatever its gates said."""
        gates = dict(release_of(self.config, number).gates or {})
        note_gates(self.config, number, gates | {"passed": True, "forced": "by hand, for the demo"})
        why, salt = "forced past the gate", f"demo-{self.record.seed}"
        begin_share(self.config, number, share, why, self.living.time, salt)
        said = f"somebody forces release {number} past the gate: {share:.0%} of the members"
        self._tell(self._today, "bad", said)
        self._known.share = str(number)
        self._known.judged = _State.of(self.config).judged

    def _person_looks(self, day: int) -> None:
        """Accept what took a release back, two days after it did."""
        stops = [one for one in standing(Ledger(self.config)) if one.about == "releases"]
        if not stops:
            return
        self._waited += 1
        if self._waited >= 2:
            self._waited = 0
            accept(Ledger(self.config), "it was forced past the gate; its labels are mended")
            self._tell(day, "open", "a person has looked, and accepts: fitting goes on")
            self._known.stops = ()

    def _person_expects(self, day: int) -> None:
        """Accept what the first lists have changed; before them nothing was recommended."""
        if standing(Ledger(self.config)):
            accept(Ledger(self.config), "members are shown recommendations now: as expected")
            self._tell(day, "open", "a person expected that, and accepts: fitting goes on")
            self._known.stops = ()

    def _begin_ab(self) -> None:
        """Let new releases get half of the members first, with the learned ranker on top."""
        file = self.root / CONFIG
        settings = yaml.safe_load(file.read_text())
        settings["release"]["share"] = AB_SHARE
        settings["rhythm"] = {"spaces": "never", "rankers": "never"}
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
        self._configured(only(self.root, "learned", "decayed"))

        def make(stages: Stages) -> None:
            from pipelines.ranking.train import train_rankers

            train_rankers(self.config, self.living.time, stages)
            release_what_is_published(self.config, stages)

        self._do("train", make)
        self._look(self._today)
        if traffic(self.config).shared is None:  # a gate refuses it, or waits for labels
            self._force(max(one.number for one in releases(self.config)), AB_SHARE)
        self.living.before_visits = self._open_both

    def _open_both(self) -> None:
        """Open both arms' releases, to ask what each would show; none before both have a share."""
        for one in self._both.values():
            one.close()
        self._both, shared = {}, traffic(self.config).shared
        if shared is None:
            return
        self._pair = (int(shared.control or 0), int(shared.release or 0))
        self.record.notes[self._pair[1]] = "the learned vector"
        store = publish.open_store(self.config)
        self._both = {
            number: Recommender(
                self.config, open_parts(self.config, store, None, fits_of(self.config, number))
            )
            for number in self._pair
        }

    def _compared(self) -> Compared | None:
        """Read the last experiment at the end, beside what the hidden taste says."""
        for one in self._both.values():
            one.close()
        if not self._truth:
            return None
        shared = next(
            one for one in experiments(Ledger(self.config)) if one.treatment == str(self._pair[1])
        )
        with connect(self.config) as con:
            found = read(self.config, con, shared, self.living.time)
        effect = found.effects[shared.metric]
        members, control, treatment = (np.array(each) for each in zip(*self._truth, strict=True))
        return Compared(
            shared,
            shared.metric,
            str(found.verdict),
            (found.members[0], found.members[1]),
            _estimate(effect.lift, effect.low, effect.high),
            _estimate(effect.lift, *effect.fixed()),
            true_lift(members, control, treatment),
            len(members),
        )

    def _do(self, command: str, work: Callable[[Stages], object]) -> None:
        ledger = Ledger(self.config)
        with ledger.lock(), ledger.run(command, None) as run_id:
            work(Stages(self.living.console, ledger, run_id))

    def _configured(self, config: Config) -> None:
        self.config = config
        self.living.configured(config)

    def _tell(self, day: int, kind: str, text: str) -> None:
        self.record.told.append(Told(day, kind, text))
        at = f"{self.market.midnight(self.market.first + day):%a %d %b}"
        line = f"  [dim]{at}[/] [{COLOURS[kind]}]{escape(text)}[/]"
        self.console.print(line, highlight=False, soft_wrap=True)

    def _look(self, day: int) -> None:
        """Tell what has changed since the last look."""
        before, now = self._known, _State.of(self.config)
        for number in sorted(now.made - before.made):
            ranker = ranker_of(release_of(self.config, number))
            self._tell(day, "muted", f"release {number} is made, its ranker {ranker}")
        for number, passed in sorted(now.judged - before.judged):
            said = "passes its gates" if passed else f"is refused: {now.why[number]}"
            self._tell(day, "good" if passed else "bad", f"release {number} {said}")
        if now.stops and not before.stops:
            more = f", and {len(now.stops) - 1} more" if len(now.stops) > 1 else ""
            said = f"a stop, fitting pauses, and an alert is sent: {now.stops[0]}{more}"
            self._tell(day, "bad", said)
        if before.stops and not now.stops:
            self._tell(day, "good", "nothing is beyond a bound any more: fitting goes on")
        for name in sorted(now.paused - before.paused):
            self._tell(day, "open", f"{name} is due, and waits")
        if now.share and now.share != before.share:
            self._tell(day, "open", f"release {now.share} answers a share of the members")
        if before.share and not now.share:
            one = next(x for x in experiments(Ledger(self.config)) if x.treatment == before.share)
            verdict = one.verdict or "ended"
            kind = "bad" if verdict.startswith(("stop", "void")) else "open"
            self._tell(day, kind, f"release {before.share} has no share any more. {verdict}")
        if now.serves != before.serves:
            self._tell(day, "good", f"release {now.serves} serves all")
        self._known = now


class _State:
    """What a person on call would see of the workspace."""

    def __init__(self) -> None:
        self.made: set[int] = set()
        self.judged: set[tuple[int, bool]] = set()
        self.why: dict[int, str] = {}
        self.serves: int | None = None
        self.share: str | None = None
        self.stops: tuple[str, ...] = ()
        self.paused: set[str] = set()

    @classmethod
    def of(cls, config: Config) -> "_State":
        from operations.rhythm import paused_parts

        made, ledger = cls(), Ledger(config)
        for one in releases(config):
            made.made.add(one.number)
            if one.gates is not None and not one.gates.get("waits"):
                made.judged.add((one.number, bool(one.gates["passed"])))
                made.why[one.number] = str(one.gates.get("why") or "")
        made.serves, shared = serving(config), traffic(config).shared
        made.share = None if shared is None else shared.treatment
        made.stops = tuple(one.said for one in standing(ledger))
        made.paused = set(paused_parts(ledger))
        return made


def true_lift(members: Any, control: Any, treatment: Any) -> Estimate:
    """Return how much more the treatment's lists bring, with its interval over members.

    Args:
        members, control, treatment: Of each visit: who, and what either list would bring.

    >>> found = true_lift(np.array([1, 1, 2]), np.array([1.0, 1.0, 2.0]), np.array([1.1, 1.1, 2.2]))
    >>> round(found.value, 6), round(found.low, 6)
    (0.1, 0.1)
    """
    _, of = np.unique(members, return_inverse=True)
    base, more = np.bincount(of, control), np.bincount(of, treatment - control)
    lift = more.sum() / base.sum()
    # The linear part of the ratio's error (delta method), over members.
    rest = more - lift * base
    half = 1.959964 * math.sqrt(len(base) * rest.var(ddof=1)) / base.sum() if len(base) > 1 else 0.0
    return Estimate(float(lift), float(lift - half), float(lift + half))


def _estimate(lift: float | None, low: float | None, high: float | None) -> Estimate | None:
    if lift is None or low is None or high is None:
        return None
    return Estimate(lift, low, high)
