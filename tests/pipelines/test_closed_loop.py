"""The market that answers: who is shown what acts by the hidden taste, and by nothing else."""

from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.datasets.behaviour import taste_of
from pipelines.datasets.closed_loop import ClosedLoop, Visit
from pipelines.datasets.market import Size
from pipelines.datasets.taste import REACTIONS
from pipelines.living import Living, live_in
from pipelines.operate.workspace import write_workspace
from serving.recommend.asked import Answer
from transformations import clock
from transformations.errors import InputError

END = datetime(2026, 3, 10, tzinfo=UTC)
SIZE = Size(members=300, jobs=60, days=20)
LIVED = 5
OPEN = [*range(30, 45)]
"""Jobs that are open in all lived days."""
APPLY = REACTIONS.index("APPLY")


def market(visits: float = 4.0) -> ClosedLoop:
    return ClosedLoop(SIZE, 5, END, LIVED, visits)


def all_jobs(_: Visit) -> list[int]:
    return [*range(1, SIZE.jobs + 1)]


def nothing(_: Visit) -> list[int]:
    return []


def shown_rows(events: pa.Table) -> list[dict[str, Any]]:
    return [row for row in events.to_pylist() if row["source_page"] == "feed"]


def test_what_is_shown_is_acted_on_and_nothing_else() -> None:
    loop = market()
    shown: dict[int, set[int]] = {}

    def show(visit: Visit) -> list[int]:
        shown.setdefault(visit.member_id, set()).update(OPEN)
        return OPEN

    rows = [row for day in range(15, 20) for row in shown_rows(loop.live(day, show))]
    assert len(rows) > 30
    assert {row["action"] for row in rows} == {"APPLY", "SAVE", "DISMISS"}
    assert all(row["item_id"] in shown[row["member_id"]] for row in rows)
    pairs = [(row["member_id"], row["item_id"]) for row in rows]
    assert len({*pairs}) == len(pairs)  # nobody acts twice on one job


def test_where_nothing_is_shown_nothing_comes_of_it() -> None:
    loop = market()
    assert [shown_rows(loop.live(day, nothing)) for day in range(15, 20)] == [[]] * 5


def test_events_come_on_the_day_of_their_arrival_and_once() -> None:
    loop, arrived = market(), []
    for day in range(15, 20):
        rows = loop.live(day, all_jobs).to_pylist()
        first, after = loop.midnight(day), loop.midnight(day + 1)
        assert all(first <= row["ingested_at"] < after for row in rows)
        arrived += [str(row) for row in rows]
    assert len({*arrived}) == len(arrived)


def test_the_taste_is_that_of_the_simulated_market_and_decides() -> None:
    """Ten lists of one member's best and worst jobs: as many applications as the taste says."""
    taste = taste_of(SIZE, 5)
    best, worst = market(), market()

    def by_taste(sign: int) -> Any:
        def show(visit: Visit) -> list[int]:
            jobs = np.arange(SIZE.jobs)
            who, when = np.full(SIZE.jobs, visit.member_id - 1), np.full(SIZE.jobs, visit.seconds)
            return [int(job) + 1 for job in np.argsort(-sign * taste.utility(who, jobs, when))][:10]

        return show

    applied = {
        name: sum(
            row["action"] == "APPLY"
            for day in range(15, 20)
            for row in shown_rows(loop.live(day, by_taste(sign)))
        )
        for name, loop, sign in (("best", best, 1), ("worst", worst, -1))
    }
    assert applied["best"] > 5 * applied["worst"]


def test_what_is_expected_of_lists_is_what_comes_of_them_on_average() -> None:
    loop, expected = market(), 0.0

    def show(visit: Visit) -> list[int]:
        nonlocal expected
        first = visit.number % 8
        shown = OPEN[first : first + 8]
        expected += float(loop.expected(visit, shown)[APPLY])
        return shown

    rows = [row for day in range(15, 20) for row in shown_rows(loop.live(day, show))]
    came = sum(row["action"] == "APPLY" for row in rows)
    assert came > 20
    assert abs(came - expected) < 3 * np.sqrt(expected)


def test_a_closed_job_is_passed_by() -> None:
    loop = market()
    jobs = [*range(1, 4)]  # posted first, up to 30 days before the start, so closed by now
    assert sum(len(shown_rows(loop.live(day, lambda _: jobs))) for day in range(15, 20)) == 0
    assert loop.expected(loop.visits(15)[0], jobs).sum() == 0


def test_who_is_shown_nothing_good_leaves_and_is_not_seen_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, came = market(), []
    monkeypatch.setattr("pipelines.datasets.closed_loop.LEAVES", 1.0)

    def show(visit: Visit) -> list[int]:
        came.append(visit.member_id)
        return []

    first = loop.live(15, show)
    gone = {visit.member_id for visit in loop.visits(15)}
    assert gone == set()  # all who came have left at their first visit
    assert len({*came}) == len(came) > 10
    for day in range(16, 20):
        rows = loop.live(day, show).to_pylist()
        # What they found before they left may still arrive.
        assert not [
            row for row in rows
            if row["member_id"] in {*came} and row["event_timestamp"] >= loop.midnight(16)
            and row["event_timestamp"] > END
        ]  # fmt: skip
    assert len({*came}) == len(came)
    assert first.num_rows > 0


def test_two_ways_to_recommend_meet_the_same_members_in_the_same_mood() -> None:
    """Who is shown the same acts the same, whatever the others are shown."""

    def half(visit: Visit) -> list[int]:
        return OPEN if visit.member_id % 2 else []

    one = shown_rows(market().live(15, lambda _: OPEN))
    other = shown_rows(market().live(15, half))
    keys = ("member_id", "item_id", "action", "event_timestamp")

    def of_odd(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [tuple(row[key] for key in keys) for row in rows if row["member_id"] % 2]

    assert of_odd(one) == of_odd(other) != []
    assert len(other) == len(of_odd(other))


def test_the_same_seed_gives_the_same_events(tmp_path: Path) -> None:
    one, other = market(), market()
    for name, loop in (("one", one), ("other", other)):
        loop.write(tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "one") for file in tmp_path.glob("one/**/*.parquet"))
    assert len(files) == 15 + 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert one.live(15, all_jobs).equals(other.live(15, all_jobs))


def test_days_that_cannot_be_lived_are_refused() -> None:
    with pytest.raises(InputError, match="expected 1 to 19 of 20 days to be lived, got 20"):
        ClosedLoop(SIZE, 5, END, 20)


class Lived:
    """Two days of a small workspace; what was answered, beside what lies in it."""

    def __init__(self, root: Path) -> None:
        self.answers: list[tuple[Visit, Sequence[int], datetime]] = []
        self.market = market()
        self.root = root
        self.config = write_workspace(root, self.market, ())

        def note(visit: Visit, answer: Answer, _: Any) -> None:
            self.answers.append((visit, [item.item_id for item in answer.items], clock.now()))

        console = Console(file=StringIO())
        with Living(self.config, self.market, root / "source", console, note) as living:
            living.begin(backfill=1)
            for day in (15, 16):
                living.day(day)

    def table(self, folder: str) -> pa.Table:
        files = sorted((self.root / folder).rglob("*.parquet"))
        return pa.concat_tables(
            (pq.ParquetFile(file).read() for file in files), promote_options="permissive"
        )


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return Lived(tmp_path_factory.mktemp("lived") / "market")


def test_what_was_shown_is_written_down_and_nothing_else(lived: Lived) -> None:
    rows = lived.table("data/impressions")
    noted = {
        (row["member_id"], row["item_id"], row["position"], row["shown_at"])
        for row in rows.to_pylist()
        if row["item_id"] is not None
    }
    assert noted == {
        (visit.member_id, item, position, visit.at)
        for visit, items, _ in lived.answers
        for position, item in enumerate(items)
    }
    assert len(noted) > 100


def test_a_visit_is_answered_at_its_own_time(lived: Lived) -> None:
    assert all(visit.at == now for visit, _, now in lived.answers)
    assert clock.now() > END  # the clock is the real one again


def test_what_came_of_it_is_in_the_next_nights_run(lived: Lived) -> None:
    staged = lived.table("data/activity")
    assert staged["event_timestamp"].to_pylist()
    last = max(staged["event_timestamp"].to_pylist())
    assert lived.market.midnight(16) < last < lived.market.midnight(17)
    source = lived.table("source/events")
    feed = sum(row["source_page"] == "feed" for row in source.to_pylist())
    assert feed > 10


def test_no_table_holds_the_taste(lived: Lived) -> None:
    """Neither a column of it, nor a number of it, in any table that a run reads or writes."""
    taste = taste_of(SIZE, 5)
    hidden = {
        round(float(value), 9)
        for array in (
            taste.market.items.attractiveness,
            taste.market.members.liking,
            taste.market.members.interest,
        )
        for value in np.ravel(array)
        if 0.001 < abs(value) < 0.999 or abs(value) > 1.001
    }
    looked = 0
    for file in lived.root.rglob("*.parquet"):
        table = pq.ParquetFile(file).read()
        for name in table.column_names:
            assert name not in ("attractiveness", "liking", "interest", "fit", "utility")
            if pa.types.is_floating(table.schema.field(name).type):
                looked += 1
                values = table[name].drop_null().to_pylist()
                assert not hidden & {round(value, 9) for value in values}, (file, name)
    assert looked > 10


def test_a_workspace_with_runs_is_not_lived_again(lived: Lived) -> None:
    with pytest.raises(InputError, match=r"nothing was run yet.*First: activity reset"):
        live_in(lived.config, SIZE, 5, END, LIVED, Console(file=StringIO()))
