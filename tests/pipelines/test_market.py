"""The whole simulated market: what is recorded, and that one hidden taste explains it."""

from datetime import UTC, datetime
from shutil import copytree, ignore_patterns

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.datasets.behaviour import taste_of
from pipelines.datasets.market import REMOTE, Items, Market, Members
from pipelines.datasets.simulate import Parts, Size, simulate
from pipelines.datasets.taste import REACTIONS, Taste
from transformations.config import ROOT, Config, load_config
from transformations.duck import connect
from transformations.sources import stage_activity, stage_items

END = datetime(2026, 3, 1, tzinfo=UTC)
SIZE = Size(members=6000, jobs=400, days=20)
ALL = Parts(courses=True, searches=True, feed=True)
ACTIONS = ("APPLY", "SAVE", "DISMISS", "ENROLL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market") / "simulated"
    counts = simulate(folder, SIZE, seed=3, end=END, parts=ALL)
    assert set(counts) == {"members", "items", "events", "impressions"}
    return folder


@pytest.fixture(scope="module")
def con(folder):
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        for name in ("events", "impressions"):
            con.execute(f"create view {name} as from read_parquet('{folder}/{name}/*.parquet')")
        for name in ("items", "profiles"):
            con.execute(f"create view {name} as from read_parquet('{folder}/{name}.parquet')")
        yield con


@pytest.fixture(scope="module")
def taste():
    return taste_of(SIZE, seed=3)


def test_same_seed_same_bytes(folder, tmp_path):
    simulate(tmp_path / "again", SIZE, seed=3, end=END, parts=ALL)
    written = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.parquet")}
    assert len(written) > 2 * SIZE.days
    assert written == {
        file.relative_to(tmp_path / "again"): file.read_bytes()
        for file in (tmp_path / "again").rglob("*.parquet")
    }


def test_jobs_that_members_found_are_the_same_whatever_else_is_simulated(con, tmp_path):
    plain = tmp_path / "plain"
    counts = simulate(plain, SIZE, seed=3, end=END)
    shared = "member_id, item_id, action, event_timestamp, ingested_at, dwell, rating, source_page"
    found = "source_page <> 'feed' and action not in ('ENROLL', 'SEARCH')"
    (same,) = con.execute(
        f"select count(*) from (select {shared} from events where {found} intersect all "
        f"select {shared} from read_parquet('{plain}/events/*.parquet'))"
    ).fetchone()
    (all_found,) = con.execute(f"select count(*) from events where {found}").fetchone()
    assert same == all_found == counts["events"]
    assert not (plain / "impressions").exists()
    (kinds,) = con.execute(
        f"select list(distinct kind) from read_parquet('{plain}/items.parquet')"
    ).fetchone()
    assert kinds == ["job"]


def test_what_is_missing_is_null_and_what_is_there_is_in_range(con):
    low, high, whole, rated = con.execute(
        "select min(rating), max(rating), bool_and(rating = round(rating)), "
        "count(rating) / count(*) from events where action <> 'SEARCH'"
    ).fetchone()
    assert (low, high, whole) == (1, 5, True)
    assert 0.1 < rated < 0.15
    shortest, told = con.execute(
        "select min(dwell), count(dwell) / count(*) from events where action <> 'SEARCH'"
    ).fetchone()
    assert shortest > 0
    assert 0.7 < told < 0.8
    # A client that does not tell it never does.
    (silent,) = con.execute(
        "select avg((told = 0)::int) from (select count(dwell) as told from events "
        "where action <> 'SEARCH' group by member_id having count(*) >= 10)"
    ).fetchone()
    assert 0.15 < silent < 0.25


def test_pages_and_kinds_of_items_fit_the_actions(con):
    assert con.execute(
        "select distinct action, kind from events join items using (item_id) "
        "where action <> 'VIEW' order by all"
    ).fetchall() == [("APPLY", "job"), ("DISMISS", "job"), ("ENROLL", "course"), ("SAVE", "job")]
    assert con.execute("select distinct source_page from events order by all").fetchall() == [
        ("feed",),
        ("mail",),
        ("search",),
        ("similar",),
    ]
    (early,) = con.execute(
        "select count(*) from events join items using (item_id) "
        "where event_timestamp < posted_at and event_timestamp > '1970-01-01'"
    ).fetchone()
    assert early == 0


def test_a_search_has_a_text_and_no_item_and_names_what_the_member_likes(con, taste):
    assert con.execute(
        "select count(*) > 1000, count(item_id), count(query) = count(*), count(dwell) "
        "from events where action = 'SEARCH'"
    ).fetchone() == (True, 0, True, 0)
    assert con.execute("select count(query) from events where action <> 'SEARCH'").fetchone() == (
        0,
    )
    searching = con.execute(
        "select member_id from events where query like '%registered nurse%'"
    ).fetchnumpy()["member_id"]
    health = 6  # of the categories
    liking = taste.market.members.liking[:, :, health].max(axis=1)
    assert liking[searching - 1].mean() > 3 * liking.mean()


def test_each_action_on_the_feed_is_marked_on_one_impression_and_no_other_is(con):
    acted, marked, both = con.execute(
        "with acted as (select member_id, item_id, action, event_timestamp as acted_at from events "
        "where source_page = 'feed'), "
        "marked as (select * from impressions where action is not null) "
        "select (select count(*) from acted), (select count(*) from marked), "
        "(select count(*) from acted join marked using (member_id, item_id, action) "
        "where acted_at between shown_at and shown_at + interval 2 minute)"
    ).fetchone()
    assert acted == marked == both > 1000


def test_a_slate_holds_an_item_once_from_position_1_without_gaps(con):
    assert con.execute(
        "select bool_and(shown = different), bool_and(first = 1), bool_and(last = shown), "
        "max(last) from (select count(*) as shown, count(distinct item_id) as different, "
        "min(position) as first, max(position) as last from impressions "
        "group by member_id, shown_at)"
    ).fetchone() == (True, True, True, 6)


def test_the_policy_knows_nothing_of_the_member(con, taste):
    """What is shown is liked as much as the categories on average are."""
    shown = con.execute("select member_id - 1 as m, item_id - 1 as i from impressions").fetchnumpy()
    items = taste.market.items
    jobs = ~items.is_course[shown["i"]]
    liking = taste.liking[0, shown["m"][jobs], 0, items.category[shown["i"][jobs]]]
    assert liking.mean() == pytest.approx(1 / 12, abs=0.005)


def rows(con, table, time, condition):
    """Return member and item as indices, seconds after the start, position, reaction."""
    got = con.execute(
        "select member_id - 1 as member, item_id - 1 as item, "
        f"(epoch_us({time}) - $start) / 1e6 as seconds, "
        f"{'position' if table == 'impressions' else '0'} as position, "
        "coalesce(action, 'none') as reaction "
        f"from {table} where {condition}",
        {"start": int(END.timestamp() * 1e6) - SIZE.days * 86_400_000_000},
    ).fetchnumpy()
    codes = np.array([REACTIONS.index(name) for name in got["reaction"]])
    return got["member"], got["item"], got["seconds"], got["position"], codes


@pytest.mark.parametrize("shown", [True, False])
def test_the_taste_says_how_often_each_reaction_happens(con, taste, shown):
    if shown:
        member, item, seconds, position, reaction = rows(con, "impressions", "shown_at", "true")
        predicted = taste.probabilities(member, item, seconds, position)
    else:
        member, item, seconds, position, reaction = rows(
            con,
            "events",
            "event_timestamp",
            f"source_page <> 'feed' and action in {ACTIONS} and member_id is not null "
            "and event_timestamp > '1970-01-01'",
        )
        predicted = taste.probabilities(member, item, seconds)
    assert np.allclose(predicted.sum(axis=1), 1)
    often = {}
    for code, name in enumerate(REACTIONS):
        # Not overall alone: among those for whom it is unlikely, and those for whom it is likely.
        for part in np.array_split(np.argsort(predicted[:, code]), 10):
            expected = predicted[part, code].mean()
            happened = (reaction[part] == code).mean()
            error = np.sqrt(expected * (1 - expected) / part.size)
            # A few of the actions have not arrived by the end.
            assert happened == pytest.approx(expected, abs=5 * error + 0.003)
            often.setdefault(name, []).append(happened)
    assert often["APPLY"][9] > often["APPLY"][5] + 0.1  # the members differ


def test_by_hand():
    """One member who likes a remote job's category wholly: u = 2 + 0.8, and a = u."""
    one, none = np.array([0.0]), np.array([0])
    items = Items(one, np.array([False]), none, np.array([REMOTE]), none, one)
    weights = np.zeros((1, 2, 12))
    weights[..., 0] = 1
    members = Members(weights, weights[:, 0], one, one, none, none, none)
    taste = Taste(Market(Size(1, 50, 2), items, members), dismiss=-9.0, apply=2.8)
    assert taste.utility(none, none, one).tolist() == [2.8]
    found = taste.probabilities(none, none, one)[0]
    assert found.tolist() == pytest.approx([0, 0, 0.5, 0.5, 0])
    # Looked at with 1/2; Φ(0.5 / 0.7) = 0.76247.
    shown = taste.probabilities(none, none, one, np.array([3]))[0]
    assert shown.tolist() == pytest.approx([0.75, 0, 0.131235, 0.118765, 0], abs=1e-5)


def test_a_slate_is_asked_about_at_once(taste):
    member, slate = np.array([[4], [5]]), np.array([[0, 1, 402], [7, 8, 403]])
    both = taste.probabilities(member, slate, np.array([[1e6]]), np.array([1, 2, 3]))
    assert both.shape == (2, 3, len(REACTIONS))
    alone = taste.probabilities(np.array([5]), np.array([403]), np.array([1e6]), np.array([3]))
    assert both[1, 2].tolist() == alone[0].tolist()
    places = taste.probabilities(np.array([5]), np.array([403]), np.array([1e6]), np.arange(1, 7))
    assert places[2].tolist() == alone[0].tolist()
    assert (np.diff(places[:, REACTIONS.index("none")]) > 0).all()


def test_the_example_of_the_page_runs():
    page = (ROOT / "docs" / "simulated-market.md").read_text()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["chances"].shape == (1, 3, len(REACTIONS))


def test_who_likes_jobs_of_a_category_likes_its_courses_but_not_in_step(taste):
    jobs, courses = taste.liking[:, :, 0]
    same = [np.corrcoef(jobs[:, c], courses[:, c])[0, 1] for c in range(12)]
    other = [np.corrcoef(jobs[:, c], courses[:, c - 1])[0, 1] for c in range(12)]
    assert 0.6 < min(same) < max(same) < 0.97
    assert max(other) < 0.1


def test_profiles_have_holes(con):
    assert con.execute(
        "select count(distinct member_id), min(years_experience) >= 0, "
        "count(*) > count(distinct member_id), bool_and(available_at < $end) from profiles",
        {"end": END},
    ).fetchone() == (6000, True, True, True)
    shares = con.execute(
        "select count(industry) / count(*), count(seniority) / count(*), "
        "count(years_experience) / count(*), count(region) / count(*) from profiles"
    ).fetchone()
    assert shares == pytest.approx((0.9, 0.85, 0.75, 0.855), abs=0.02)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, Parts()),
        ({"events": {"attributes": {"dwell": {"type": "number"}}}}, Parts()),
        ({"actions": {"APPLY": "positive", "ENROLL": "positive"}}, Parts()),
        ({"actions": {"ENROLL": {"sign": "positive", "item_kind": "course"}}}, Parts(courses=True)),
        ({"actions": {"SEARCH": {"text": "query"}}}, Parts(searches=True)),
        (
            {"events": {"attributes": {"page": {"type": "category", "column": "source_page"}}}},
            Parts(feed=True),
        ),
    ],
)
def test_a_configuration_decides_what_is_simulated(settings, parts):
    assert Parts.read_by(Config.model_validate({"items": {"text": ["title"]}} | settings)) == parts


def test_the_ready_workspace_takes_all_that_is_simulated_for_it(tmp_path):
    here = tmp_path / "market"
    copytree(ROOT / "examples" / "market", here, ignore=ignore_patterns("data"))
    size = ["--members", "200", "--jobs", "60", "--days", "20", "--end", "2026-03-01"]
    done = CliRunner().invoke(app, ["simulate", "--config", str(here), *size])
    assert done.exit_code == 0, done.output
    config = load_config(here)
    with connect(config) as con:
        taken = stage_activity(config, con, END)
        items = stage_items(config, con, END)
        actions = con.execute(
            "select list(distinct action order by action), count(*), count(dwell), count(rating), "
            f"count(source_page) from read_parquet('{config.layout.activity}/*/*.parquet')"
        ).fetchone()
    assert set(taken.refused) <= {
        "member_id is null",
        "action is unknown",
        "event_timestamp is before events.earliest",
    }
    assert (items.rows_in, items.refused) == (96, {})  # jobs and courses; texts are items too
    assert items.rows_out > 96
    names, count, dwells, ratings, pages = actions
    assert names == ["APPLY", "DISMISS", "ENROLL", "SAVE", "SEARCH"]
    assert count == pages > dwells > ratings > 0
