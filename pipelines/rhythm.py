"""What `activity run` does without a timestamp: the parts that are due, in order of dependence.

The snapshot comes first, so that what serves is fresh whatever becomes of the fits. Then each item
space that is due is fitted with what learns in it, and rows of the new fits go online beside those
of the old ones. Rankers come last: from labels after everything that their fits saw, inside
fit_holdback, with rows of the new fits as of those days. What fails leaves the last good one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from rich.console import Console

from models.lines import candidate_lines, ranker_lines
from models.rankers.spec import Ranker
from models.spec import Aggregator
from operations.drift import pauses_fitting
from operations.fits import SPACE, Fits, fit_until, note_fits, seen_until
from operations.ledger import Ledger
from operations.rankers import RANKER, made_fits
from operations.readers import Lines
from operations.rhythm import CANDIDATES, PUBLISH, SNAPSHOT, Plan, note_attempt, short
from pipelines.backfill import run_backfill
from pipelines.daily import run_daily, serve, serve_beside
from pipelines.drift.watch import say_paused
from pipelines.fitting import lines_to_serve, new_fit
from pipelines.progress import Stages
from pipelines.ranking.train import Examples, needs_of, train_ranker, train_rankers
from pipelines.releasing import release_what_is_published
from pipelines.terminal import escape
from serving import publish
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError, TooFewError
from transformations.layout import partitions
from transformations.secrets import redact


def run_due(config: Config, plan: Plan, ledger: Ledger, console: Console) -> Stages:
    """Make what is due; a part that fails is noted, and the others go on without it.

    Returns all stages.

    Raises:
        InputError, RunFailedError: the snapshot could not be built, which everything is made from.
        RunFailedError: parts failed; what was made of them before goes on being served.
    """
    due = _Due(config, plan, ledger, console)
    if plan.makes(SNAPSHOT):
        with due.stages("run") as stages:
            run_daily(config, plan.as_of, stages, with_lists=plan.makes(CANDIDATES))
    if plan.missed:
        due.build_missed()
    due.fit_spaces()
    due.fit_rankers()
    if due.failed:
        raise RunFailedError(
            f"these parts failed: {'; '.join(due.failed)}. What was made of them before goes on "
            "being served, and the next run tries them again"
        )
    return due.all


def run_whole(
    config: Config, as_of: datetime | None, backfill: int, ledger: Ledger, console: Console
) -> tuple[datetime, Stages]:
    """Make the snapshot of a timestamp whatever is due, past days for joins, and a release of it.

    Args:
        as_of: As `run_daily` takes it.
        backfill: Days before it whose snapshots are built too; rankers learn from them.

    Returns:
        The snapshot's as_of, and all stages.
    """
    with ledger.run("run", as_of) as run_id:
        stages = Stages(console, ledger, run_id)
        built = run_daily(config, as_of, stages, backfilled=timedelta(days=backfill))
    if backfill:
        days = [built - timedelta(days=back) for back in range(backfill, 0, -1)]
        with ledger.run("backfill", days[-1]) as run_id:
            past = Stages(console, ledger, run_id)
            run_backfill(config, days, past, staged=True)
            stages.done.extend(past.done)
    if candidate_lines(config):  # after the past days, from which rankers learn
        with ledger.run("recommend", built) as run_id:
            recommend = Stages(console, ledger, run_id)
            train_rankers(config, built, recommend)
            release_what_is_published(config, recommend, built)
            stages.done.extend(recommend.done)
    else:
        release_what_is_published(config, stages)
    return built, stages


class _Due:
    """A run under way.

    Attributes:
        all: What was done.
        behind: Spaces that are due and got no new fit.
        failed: The parts that failed, each with the reason.
    """

    def __init__(self, config: Config, plan: Plan, ledger: Ledger, console: Console) -> None:
        self.config, self.plan, self.ledger, self.console = config, plan, ledger, console
        self.as_of = plan.as_of
        self.all = Stages(console, ledger, 0)
        self.behind: set[str] = set()
        self.failed: list[str] = []

    @contextmanager
    def stages(self, command: str, as_of: datetime | None = None) -> Iterator[Stages]:
        """Note a run in the ledger, and its stages among all."""
        with self.ledger.run(command, as_of or self.as_of) as run_id:
            stages = Stages(self.console, self.ledger, run_id)
            try:
                yield stages
            finally:
                self.all.done.extend(stages.done)

    def build_missed(self) -> None:
        """Build the snapshots that no run built in time, for training joins."""
        step = self.config.rhythm.step
        try:
            with self.stages("backfill", self.plan.missed[-1]) as stages:
                run_backfill(self.config, self.plan.missed, stages, staged=True, step=step)
        except InputError as error:  # every fit saw what came later
            self._say(f"missed snapshots are not built: {error}")

    def fit_spaces(self) -> None:
        """Fit each space that is due with what learns in it, and put rows of the fits online."""
        names = self.plan.of(SPACE)
        if self._is_paused(SPACE, names):
            self.behind |= {*names}
            return
        if names:  # their items are online: a version before this did not note it
            fits = Fits(self.config)
            online = [space for space in fits.spaces.values() if fits.is_made(space)]
            note_fits(self.config, [], used=True, spaces=online)
        for name in names:
            with self._attempt(SPACE, name):
                self.behind.add(name)
                until = fit_until(self.config, self.as_of)
                with self.stages("fit") as stages, connect(self.config) as con:
                    made = new_fit(self.config, con, self.as_of, until, stages, name)
                with self.stages(PUBLISH) as stages:
                    self._publish(made, stages)
                self.behind.remove(name)

    def _publish(self, made: Sequence[Aggregator], stages: Stages) -> None:
        """Put rows of new fits online beside those of the fits before, and lists of their space."""
        config = self.config.in_space(Fits(self.config).space)
        served, still = lines_to_serve(config, None, stages)
        views = {line.view for line in made}
        others = [line for line in [*served, *still] if line.view not in views]
        if made:
            serve(config, self.as_of, made, others, stages, with_sequences=False)
        else:  # only candidate sources read it
            store = publish.open_store(config)
            owns = [own for own, _ in Fits(config).all_spaces(others)]
            with stages.stage("feast apply") as stage:
                stage.note = f"{publish.apply(config, store, others)} objects"
            note_fits(config, [], used=True, spaces={own.space for own in owns})
            with stages.stage("publish") as stage:
                stage.rows_out = publish.publish_items(owns, store, self.as_of)
        serve_beside(config, self.as_of, stages)

    def fit_rankers(self) -> None:
        """Fit the rankers that are due, then note what is published now as a release.

        The lists that are made before, which need all of the above, come with the one that serves.
        """
        lines = Lines.of(self.config)
        due = [line for line in ranker_lines(self.config) if str(line) in self.plan.of(RANKER)]
        due = [
            line
            for line in due
            if not self.behind & {lines.space_of(one) for one in lines.reads(line)}
        ]
        with self.stages("recommend") as stages:
            if not candidate_lines(self.config):
                release_what_is_published(self.config, stages)
                return
            made: Examples | None = None
            if not self._is_paused(RANKER, [str(line) for line in due]):
                for line in due:
                    with self._attempt(RANKER, str(line)):
                        if made_fits(self.config, line):
                            self._build_rows_of(line, stages)
                        _, _, made = train_ranker(self.config, line, self.as_of, stages, made=made)
            release_what_is_published(self.config, stages, self.as_of)

    def _build_rows_of(self, line: Ranker, stages: Stages) -> None:
        """Build the rows that the fits of a ranker's aggregators lack in the days of its labels.

        None before the moment that they saw last; labels there are not learned from.
        """
        _, aggregators = needs_of(self.config, line)
        seen = [moment for one in aggregators if (moment := seen_until(one, self.config))]
        first = max([self.as_of - timedelta(days=line.days), *seen])
        days = [at for at in partitions(self.config.layout.sequences) if first <= at < self.as_of]
        if days:
            step = self.config.rhythm.step
            run_backfill(self.config, days, stages, staged=True, step=step)

    def _is_paused(self, kind: str, names: Sequence[str]) -> bool:
        """Whether drift pauses fitting; what waits for it is said and noted."""
        if not names or not pauses_fitting(self.ledger, self.as_of):
            return False
        say_paused(self.all, names)
        for name in names:
            note_attempt(self.ledger, kind, name, self.as_of, "paused", "drift")
        return True

    @contextmanager
    def _attempt(self, kind: str, name: str) -> Iterator[None]:
        """Note how making a part again ended; what fails is no reason to leave out the others."""
        try:
            yield
        except TooFewError as error:
            self._say(f"{name} is not trained: {error}")
            note_attempt(self.ledger, kind, name, self.as_of, "waits", str(error))
        except Exception as error:
            said = redact(f"{type(error).__name__}: {error}")
            self.failed.append(f"{kind} {name}: {short(said)}")
            self._say(f"{kind} {name} failed: {said}")
            note_attempt(self.ledger, kind, name, self.as_of, "failed", said)
        else:
            note_attempt(self.ledger, kind, name, self.as_of, "done")

    def _say(self, text: str) -> None:
        self.console.print(f"[yellow]•[/] {escape(text)}", highlight=False, soft_wrap=True)
