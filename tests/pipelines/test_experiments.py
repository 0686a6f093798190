"""What an experiment reads: metrics by hand, planted faults and effects, the command line."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from duckdb import DuckDBPyConnection as Connection
from typer.testing import CliRunner

from operations.experiments.assignment import arm_of, numbers_of
from operations.experiments.metrics import Metric
from operations.experiments.power import plan
from operations.experiments.records import Experiment
from operations.experiments.verdict import Guardrail
from operations.ledger import Ledger
from pipelines.cli.experiment import app
from pipelines.experiments.history import weeks_before
from pipelines.experiments.outcomes import exposed, moments
from pipelines.experiments.reading import (
    Reading,
    cohorts,
    default_guardrails,
    measure,
    read,
    read_guardrail,
)
from serving.recommend.impressions import schema
from tests.worlds.events import AS_OF, DAY, Event, configure, table, write_activity
from transformations.config import CONFIG_VARIABLE, Config, load_config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import period_file

HOUR = timedelta(hours=1)
BEGAN = AS_OF - 14 * DAY
ACTIONS = {"APPLY": "positive", "DISMISS": "negative", "HIRE": "positive", "LOOK": "neutral"}
EXPERIMENT = Experiment("ranker", "4c1d", 0.5, "APPLY per member", (), 0.05, 2, 1_000, BEGAN)


class Row(NamedTuple):
    """One item that was shown."""

    member_id: int
    item_id: int | None
    shown_at: datetime
    arm: str | None
    request_id: str = "a"
    position: int | None = 0
    surface: str | None = "home"
    path: str = "ranked"
    seconds: float | None = 0.1
    release: str | None = None


def write_shown(config: Config, rows: Sequence[Row]) -> None:
    columns, listed = schema(config), [row._asdict() for row in rows]
    file = config.layout.impressions / "period=2026-03-01" / "part.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array([row.get(f.name) for row in listed], f.type) for f in columns]
    pq.write_table(pa.table(arrays, schema=columns), file)


CONTROL, TREATMENT = "other:treatment ranker:control", "ranker:treatment"


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Connection]]:
    """Member 1 in the control, 2 and 3 in the treatment, 4 in another experiment."""
    events = {"attributes": {"dwell": {"type": "number", "unit": "s"}}}
    config = configure(tmp_path_factory.mktemp("by_hand"), actions=ACTIONS, events=events)
    write_shown(
        config,
        [
            Row(1, 7, BEGAN + DAY, CONTROL),
            Row(1, 8, BEGAN + DAY, CONTROL, position=1),
            Row(1, 7, BEGAN + 3 * DAY, CONTROL, "b"),
            Row(2, 7, BEGAN + DAY, TREATMENT, "c"),
            Row(3, 9, BEGAN + 2 * DAY, TREATMENT, "d"),
            Row(3, None, BEGAN + 3 * DAY, TREATMENT, "g", None, seconds=0.3),  # an empty list
            Row(4, 7, BEGAN + DAY, "other:control", "e"),
            Row(5, 7, BEGAN - DAY, CONTROL, "f"),  # it had not begun
        ],
    )
    acted = [
        (Event(1, 7, "APPLY", BEGAN), 1.0),  # nothing was shown to it yet
        (Event(1, 7, "APPLY", BEGAN + DAY + HOUR), 2.0),
        (Event(1, 7, "APPLY", BEGAN + DAY + 2 * HOUR), 4.0),  # of one impression it counts once
        (Event(1, 7, "APPLY", BEGAN + 5 * DAY), 8.0),  # two days after the newest impression
        (Event(2, 7, "DISMISS", BEGAN + DAY + HOUR), None),
        (Event(2, 7, "DISMISS", BEGAN + DAY + HOUR + 20 * HOUR / 60), None),
        (Event(2, 5, "APPLY", BEGAN + 6 * DAY), 16.0),  # not shown: of a member it counts
        (Event(3, 9, "HIRE", BEGAN + 9 * DAY), 32.0),  # late
        (Event(3, 9, "APPLY", BEGAN + 2 * DAY, AS_OF), 64.0),  # it reached us later
        (Event(4, 7, "APPLY", BEGAN + DAY + HOUR), 128.0),
        (Event(3, 9, "APPLY", AS_OF), 256.0),
    ]
    file = period_file(config.layout.activity, BEGAN.date())
    file.parent.mkdir(parents=True)
    rows = table([event for event, _ in acted])
    pq.write_table(rows.append_column("dwell", pa.array([dwell for _, dwell in acted])), file)
    with connect(config) as con:
        assert exposed(config, con, BEGAN, AS_OF, EXPERIMENT) == 3
        yield config, con


@pytest.mark.parametrize(
    ("text", "control", "treatment"),
    [
        ("APPLY", (3, 1), (1, 2)),
        ("APPLY within 1d", (2, 1), (0, 2)),
        ("APPLY per impression", (1, 3), (0, 2)),
        ("APPLY per impression within 3d", (2, 3), (0, 2)),
        ("HIRE per impression", (0, 3), (0, 2)),
        ("HIRE per impression within 30d", (0, 3), (1, 2)),
        ("positive", (3, 1), (2, 2)),
        ("negative per impression", (0, 3), (1, 2)),
        ("impressions", (3, 1), (2, 2)),
        ("dwell", (14, 1), (48, 2)),
        ("dwell per impression", (6, 3), (0, 2)),
        ("APPLY per session", (3, 3), (1, 3)),
        ("session_minutes", (0, 3), (20, 3)),
        ("session_minutes per member", (0, 1), (20, 2)),
        ("latency", (0.2, 2), (0.5, 3)),
        ("filled", (2, 2), (2, 3)),
        ("APPLY per list", (3, 2), (1, 3)),
    ],
)
def test_a_metric_counts_what_it_says(
    by_hand: tuple[Config, Connection],
    text: str,
    control: tuple[float, float],
    treatment: tuple[float, float],
) -> None:
    """The sums of amount and size of each arm."""
    config, con = by_hand
    (arms,) = moments(config, con, Metric.read(text, config)).values()
    assert [
        (pytest.approx(one.amount * one.members), pytest.approx(one.size * one.members))
        for one in arms
    ] == [control, treatment]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SAVE", "expected a metric of APPLY, DISMISS, HIRE, LOOK, dwell, positive"),
        ("APPLY for each member", "expected a metric such as"),
        ("impressions per session", "expected impressions per member"),
        ("session_minutes per impression", "expected session_minutes per session or member"),
        ("session_minutes within 1d", "without `within`"),
        ("latency per member", "expected latency per list, got per member"),
    ],
)
def test_what_is_no_metric(by_hand: tuple[Config, Connection], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Metric.read(text, by_hand[0])


def test_metrics_and_guardrails_are_written_as_they_are_read(
    by_hand: tuple[Config, Connection],
) -> None:
    config, _ = by_hand
    for text in ("APPLY per member", "HIRE per impression within 30d", "dwell per session"):
        assert str(Metric.read(text, config)) == text
    assert [str(one) for one in default_guardrails(config)] == [
        "negative per impression <= +10%",
        "impressions per member >= -10%",
        "latency per list <= +25%",
        "filled per list >= -1%",
        "coverage >= -20%",
    ]
    assert str(read_guardrail("DISMISS <= 5%", config)) == "DISMISS per member <= +5%"
    with pytest.raises(InputError, match="expected coverage >= some percent"):
        read_guardrail("coverage <= 5%", config)


MEMBERS = 1_200


def simulated(
    folder: Path,
    rates: tuple[float, float] = (0.4, 0.4),
    dismiss: tuple[float, float] = (0.4, 0.4),
    lost: tuple[float, float] = (0.0, 0.0),
    surfaces: tuple[str, str] = ("home", "home"),
    items: tuple[int, int] = (50, 50),
    salt: str = EXPERIMENT.salt,
    first: tuple[int, int] = (0, 0),
    name: str = "ranker",
    seconds: tuple[float, float] = (0.1, 0.1),
    **more: Any,
) -> Config:
    """Members who are shown an item, apply to it or dismiss it, as (control, treatment) do.

    Every other member is shown it on the arm's surface, where a share of the lists is lost; the
    others at home.
    """
    config = configure(folder, actions=ACTIONS, **more)
    rng = np.random.default_rng(3)
    numbers = numbers_of(salt, name, np.arange(MEMBERS))
    shown, events = [], []
    for member, number in enumerate(numbers):
        arm = arm_of(number, 0.5)
        at = int(arm == "treatment")
        surface = surfaces[at] if member % 2 else "home"
        if member % 2 and rng.random() < lost[at]:
            continue
        when = BEGAN + DAY * rng.integers(0, 10) + HOUR
        item = int(rng.integers(items[at]))
        took = seconds[at] * rng.lognormal(0, 0.3)
        made_by = "2" if at and member % 10 else "1"  # a tenth of the treatment's by the control
        list_of = (f"{name}:{arm}", str(member), first[at], surface, "ranked", took, made_by)
        shown.append(Row(member, item, when, *list_of))
        for action, rate in (("APPLY", rates), ("DISMISS", dismiss)):
            if rng.random() < rate[at]:
                events.append(Event(member, item, action, when + HOUR))
    write_shown(config, shown)
    write_activity(config, events)
    return config


def reading(config: Config, until: datetime = AS_OF, **changed: Any) -> Reading:
    guardrails = (
        Guardrail("negative per impression", 0.1, is_upper=True),
        Guardrail("coverage", -0.2, is_upper=False),
    )
    made = {**vars(EXPERIMENT), "guardrails": guardrails} | changed
    with connect(config) as con:
        return read(config, con, Experiment(**made), until)


def test_arms_that_are_alike_go_on_or_are_not_worth_it(tmp_path: Path) -> None:
    config = simulated(tmp_path)
    made = reading(config)
    assert (made.verdict.kind, made.notes, made.wrong) == ("go on", [], 0)
    assert sum(made.members) == MEMBERS
    assert made.p_ratio > 0.001
    assert reading(config, minimum_effect=0.5).verdict.kind == "no difference worth the cost"
    ended = reading(config, ended_at=BEGAN + 5 * DAY)
    assert ended.days == 5
    assert sum(ended.members) < MEMBERS
    with connect(config) as con:
        whole = read(config, con, EXPERIMENT, AS_OF)
        also = measure(config, con, whole, "DISMISS per impression")
        assert also.low is not None
        assert also.high is not None
        assert also.low < 0 < also.high


def test_a_better_treatment_ships_after_whole_weeks(tmp_path: Path) -> None:
    config = simulated(tmp_path, rates=(0.3, 0.55))
    made = reading(config)
    assert made.verdict.kind == "ship"
    assert "APPLY per member is better by" in made.verdict.why
    assert "2 whole weeks are not over yet (day 11)" in (
        reading(config, until=BEGAN + 11 * DAY).verdict.why
    )


def test_harm_to_a_guardrail_stops_at_any_time(tmp_path: Path) -> None:
    config = simulated(tmp_path, rates=(0.3, 0.55), dismiss=(0.2, 0.6))
    made = reading(config, until=BEGAN + 11 * DAY)
    assert made.verdict.kind == "stop for harm"
    assert "negative per impression changed by" in made.verdict.why
    worse = reading(simulated(tmp_path / "worse", rates=(0.55, 0.3)), until=BEGAN + 11 * DAY)
    assert worse.verdict.kind == "stop for harm"
    assert "APPLY per member is worse by" in worse.verdict.why


def test_fewer_items_hold_back(tmp_path: Path) -> None:
    made = reading(simulated(tmp_path, rates=(0.3, 0.55), items=(100, 40)))
    assert made.verdict.kind == "go on"
    assert "coverage changed by -60.0%" in made.verdict.why


def test_a_broken_splitter_voids_it_and_says_where_to_look(tmp_path: Path) -> None:
    lost = reading(simulated(tmp_path / "lost", surfaces=("mail", "mail"), lost=(0.0, 0.8)))
    assert lost.verdict.kind == "void"
    assert "which a share of 0.5 does not give" in lost.verdict.why
    assert "most of all for surface mail (" in lost.verdict.why
    salted = reading(simulated(tmp_path / "salted", salt="other"))
    assert salted.verdict.kind == "void"
    assert "a service with another salt or share" in salted.verdict.why


def test_positions_that_begin_elsewhere_are_a_changed_layout(tmp_path: Path) -> None:
    config = simulated(tmp_path, first=(0, 1))
    (note,) = reading(config).notes
    assert "differ in the positions" in note
    assert "0 to 0 100% and 0%" in note


def test_a_changed_layout_is_found(tmp_path: Path) -> None:
    made = reading(simulated(tmp_path, surfaces=("home", "mail")))
    assert made.verdict.kind == "go on"
    (note,) = made.notes
    assert "differ in the surfaces of members' first lists" in note
    assert "mail 0% and 5" in note


def test_cohorts_are_values_at_the_first_impression(tmp_path: Path) -> None:
    members = {"source": "members.csv", "categorical": ["Country"]}
    config = simulated(tmp_path, rates=(0.3, 0.5), members=members)
    ids = np.arange(MEMBERS)
    country = np.where(ids % 4 == 0, "at", "de").astype(object)
    country[::100] = "gone"  # it is known after the experiment only
    times = [BEGAN - DAY if name != "gone" else AS_OF for name in country]
    said = {"member_id": ids, "available_at": pa.array(times, pa.timestamp("us", tz="UTC"))}
    config.layout.members.parent.mkdir(parents=True)
    pq.write_table(pa.table(said | {"country": country}), config.layout.members)
    with connect(config) as con:
        whole = read(config, con, EXPERIMENT, AS_OF)
        found = cohorts(config, con, whole, "country")
        with pytest.raises(InputError, match="of members' profiles \\(country\\), got 'age'"):
            cohorts(config, con, whole, "age")
    assert [(one.value, one.members) for one in found] == [
        ("de", 900), ("at", 288), ("(missing)", 12),
    ]  # fmt: skip
    assert [one.effect.is_known for one in found] == [True, True, False]


def test_members_in_both_arms_are_wrong_and_left_out(tmp_path: Path) -> None:
    config = configure(tmp_path, actions=ACTIONS)
    number = numbers_of(EXPERIMENT.salt, "ranker", [0])[0]
    right, other = ("treatment", "control") if number < 0.5 else ("control", "treatment")
    rows = [Row(0, 1, BEGAN, f"ranker:{arm}") for arm in (right, other)]
    write_shown(config, rows)
    made = reading(config)
    assert (made.members, made.wrong, made.verdict.kind) == ((0, 0), 1, "void")
    write_shown(config, rows[:1])
    assert (sum(reading(config).members), reading(config).wrong) == (1, 0)


def test_an_experiment_without_an_impression_says_so(tmp_path: Path) -> None:
    made = reading(configure(tmp_path, actions=ACTIONS))
    assert (made.members, made.verdict.kind) == ((0, 0), "go on")
    assert "too few members" in made.verdict.why


def test_the_weeks_before_are_those_of_who_was_shown_something(tmp_path: Path) -> None:
    config = simulated(tmp_path)
    with connect(config) as con:
        metric = Metric.read("APPLY per impression", config)
        weeks = weeks_before(config, con, metric, BEGAN + 14 * DAY)
        one = plan(weeks, 0.2, 0.5)
    assert [week.weeks for week in weeks] == [1]  # the first impression is an hour after BEGAN
    assert weeks[0].rate == pytest.approx(0.4, abs=0.1)
    assert one.weeks is not None
    assert one.members > weeks[0].members


def test_before_anything_is_shown_who_acted_counts(tmp_path: Path) -> None:
    config = configure(tmp_path, actions=ACTIONS)
    events = [Event(member, 1, "APPLY", BEGAN + member * HOUR) for member in range(9)]
    write_activity(config, events)
    with connect(config) as con:
        (week,) = weeks_before(config, con, Metric.read("APPLY", config), BEGAN + 7 * DAY)
        assert (week.weeks, week.members, week.rate) == (1, 9, 1.0)
        with pytest.raises(InputError, match="expected a week of impressions before"):
            weeks_before(config, con, Metric.read("APPLY per impression", config), AS_OF)
        with pytest.raises(InputError, match="expected a week of activity before"):
            weeks_before(config, con, Metric.read("APPLY", config), BEGAN + 6 * DAY)


def workspace(folder: Path, rates: tuple[float, float]) -> Path:
    """A workspace whose last run was at AS_OF, with what a ranker has done."""
    simulated(folder, rates)
    file = folder / "activity.yaml"
    actions = ", ".join(f"{name}: {sign}" for name, sign in ACTIONS.items())
    file.write_text(f"data_dir: {folder}/data\nitems: {{text: [title]}}\nactions: {{{actions}}}\n")
    ledger = Ledger(load_config(file))
    with ledger.run("run", AS_OF) as run_id:
        ledger.published(run_id, AS_OF)
    return file


def test_an_experiment_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workspace(tmp_path, rates=(0.3, 0.55))

    def call(*arguments: str, code: int = 0) -> str:
        monkeypatch.setenv(CONFIG_VARIABLE, str(file))
        done = CliRunner().invoke(app, ["experiment", *arguments], env={"COLUMNS": "200"})
        assert done.exit_code == code, (done.output, done.exception)
        return " ".join(done.stdout.split())

    assert "No experiment was started yet" in call("list")
    said = call("power", "--metric", "APPLY per impression", "--effect", "0.2")
    assert "whole weeks" in said
    assert "A change of 20.0% is found with probability 80%" in said
    said = call("power", "--metric", "APPLY", "--members-a-day", "20000", "--baseline", "0.1")
    assert "140,000 members came in 1 week" in said
    since = BEGAN.isoformat()
    said = call("start", "ranker", "--metric", "APPLY", "--since", since, "--salt", "4c1d")
    assert "50% of members in the treatment, 50% in the control" in said
    assert "guardrail: coverage >= -20%" in said
    said = call("status", "ranker", "--also", "HIRE per impression within 30d")
    assert "ship: APPLY per member is better by" in said
    assert "HIRE per impression within" in said  # its cell may be folded
    call("start", "layout", "--metric", "DISMISS", "--share", "0.1", "--guardrail", "APPLY >= -5%")
    assert "20% of members are in the treatment" in call("grow", "layout", "--share", "0.2")
    assert call("status", "layout", code=1) == ""  # nothing is staged since it began
    call("stop", "layout", "--why", "a mistake")
    said = call("stop", "ranker", "--why", "all have it")
    assert "it said: ship: APPLY per member is better by" in said
    said = call("list")
    assert "all have it" in said
    assert "a mistake" in said


def test_status_ends_with_1_where_it_harms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(workspace(tmp_path, rates=(0.55, 0.3))))
    since = ["--since", BEGAN.isoformat(), "--salt", "4c1d"]
    start = ["experiment", "start", "ranker", "--metric", "APPLY", *since]
    assert CliRunner().invoke(app, start).exit_code == 0
    done = CliRunner().invoke(app, ["experiment", "status", "ranker"])
    assert done.exit_code == 1
    assert "stop for harm: APPLY per member is worse by" in " ".join(done.stdout.split())
