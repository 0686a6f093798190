"""The simulated job market: what its docstring promises, and that a seed means something."""

from datetime import UTC, datetime

import duckdb
import pytest

from pipelines.datasets.simulate import Size, simulate
from transformations.errors import InputError

END = datetime(2026, 3, 1, tzinfo=UTC)
SMALL = Size(members=2000, jobs=400, days=20)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market") / "simulated"
    counts = simulate(folder, SMALL, seed=3, end=END)
    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    con.execute(f"create view events as from read_parquet('{folder}/events/*.parquet')")
    con.execute(f"create view items as from read_parquet('{folder}/items.parquet')")
    yield con, counts, folder
    con.close()


def test_counts_are_what_lies_in_the_files(market):
    con, counts, _ = market
    assert counts == {
        "members": 2000,
        "items": con.execute("select count(*) from items").fetchone()[0],
        "events": con.execute("select count(*) from events").fetchone()[0],
    }
    assert counts["events"] > 10_000


def test_the_rows_are_those_that_the_measured_figures_come_from(market):
    """docs/evaluation.md was measured on them; a change must be meant."""
    con, _, _ = market
    assert con.execute(
        "select action, count(*), sum(item_id)::int, sum(epoch_us(ingested_at) % 1000003)::int64 "
        "from events group by action order by action"
    ).fetchall() == [
        ("APPLY", 6368, 1289790, 3201615539),
        ("DISMISS", 426, 88893, 211461282),
        ("SAVE", 7368, 1455258, 3650248028),
        ("VIEW", 4, 765, 2097785),
    ]


def test_nobody_acts_on_a_job_before_it_is_posted_or_after_it_closed(market):
    con, _, _ = market
    ages = con.execute(
        "select min(age), max(age) from (select date_diff('second', posted_at, event_timestamp) "
        "/ 86400.0 as age from events join items using (item_id) "
        "where event_timestamp > '1970-01-01')"
    ).fetchone()
    assert ages[0] >= 0
    # A category without an open job falls back to its newest one, which a tiny market can need.
    assert ages[1] < 40


def test_only_what_has_arrived_by_the_end_is_there(market):
    con, _, _ = market
    assert con.execute("select max(ingested_at) < $end from events", {"end": END}).fetchone()[0]
    lag = con.execute(
        "select min(ingested_at - event_timestamp) >= interval 0 second from events "
        "where event_timestamp > '1970-01-01'"
    ).fetchone()
    assert lag[0]


def test_the_imbalance_of_the_post(market):
    con, _, _ = market
    share = con.execute("select avg((action = 'DISMISS')::int) from events").fetchone()[0]
    assert 0.02 < share < 0.04


def test_some_rows_are_broken_in_each_way(market):
    con, _, _ = market
    broken = con.execute(
        "select count(*) filter (member_id is null), count(*) filter (action = 'VIEW'), "
        "count(*) filter (event_timestamp < '1970-01-01'), count(*) from events"
    ).fetchone()
    assert all(count >= 1 for count in broken[:3])
    assert sum(broken[:3]) < 0.005 * broken[3]


def test_same_seed_same_rows_other_seed_other_rows(market, tmp_path):
    con, _, _folder = market
    simulate(tmp_path / "same", SMALL, seed=3, end=END)
    simulate(tmp_path / "other", SMALL, seed=4, end=END)

    def differing(other):
        return con.execute(
            f"select count(*) from (from events except all "
            f"from read_parquet('{tmp_path}/{other}/events/*.parquet'))"
        ).fetchone()[0]

    assert differing("same") == 0
    assert differing("other") > 1000


def test_a_market_too_small_is_refused():
    with pytest.raises(InputError, match="jobs: expected at least 50, got 3"):
        Size(members=10, jobs=3, days=5)
