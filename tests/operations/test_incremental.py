"""Where the next fits begin, by the ledger alone: on workspaces that hold only their notes."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.lines import catalogue_lines, encoder_lines, ranker_lines
from operations.incremental import Start, Starts, starts_of
from operations.releases import RELEASE_FITS, RELEASES, promote
from operations.rhythm import plan
from tests.operations.test_rhythm import DAY, MIDNIGHT, NOW, Noted
from transformations.errors import InputError
from transformations.names import Space

CATALOGUE = """
from models.candidates.spec import Popular
from models.items.spec import TfidfSvd, Trained
from models.rankers.lines import Linear, WideAndDeep
from models.spec import GeometricDecay, LearnedDecay

ITEM_ENCODERS = (Trained(version=1), TfidfSvd(version=1))
AGGREGATORS = (
    GeometricDecay(version=1, decay=0.5),
    Trained(version=1).aggregator(version=1),
    LearnedDecay(name="own", version=1, items="tfidf_svd_v1"),
)
CANDIDATES = (Popular(version=1),)
RANKERS = (
    WideAndDeep(name="wide", version=1, aggregators=("learned_decay_v1",)),
    Linear(version=1),
)
"""
INCREMENTAL = "train: {mode: incremental, full_every: 3}\n"
TRAINED = Space("trained", 1)


class Went(Noted):
    """Fits whose beginnings are noted too."""

    def __init__(self, root: Path, settings: str = INCREMENTAL) -> None:
        super().__init__(root, settings, CATALOGUE)

    def made(self, kind: str, name: str, fit: int, encoder: Space = TRAINED) -> Start | None:
        """Note the next fit of a line as a run would; return where it began."""
        starts, start = Starts(self.config), self.next(kind, name, encoder)
        starts.note((kind, name, 1, fit), start)
        self.fit(kind, name, fit, MIDNIGHT - (40 - fit) * DAY)
        if kind == "line":
            with self.ledger.engine.begin() as connection:
                connection.execute(
                    sa.text("update fit set encoder = :e, encoder_fit = :f where name = :n and "
                            "fit = :fit"),
                    {"e": encoder.encoder, "f": encoder.fit, "n": name, "fit": fit},
                )  # fmt: skip
        return start

    def next(self, kind: str, name: str, encoder: Space = TRAINED) -> Start | None:
        starts = Starts(self.config)
        if kind == "space":
            (line,) = [one for one in encoder_lines(self.config) if one.name == name]
            return starts.of_space(line)
        if kind == "line":
            (one,) = [one for one in catalogue_lines(self.config) if one.name == name]
            return starts.of_line(one, encoder)
        (ranker,) = [one for one in ranker_lines(self.config) if one.name == name]
        return starts.of_ranker(ranker)


def test_every_third_is_full(tmp_path: Path) -> None:
    went = Went(tmp_path)
    said = [str(went.made("ranker", "wide", fit)) for fit in range(1, 6)]
    assert said == [
        "full: it is the first fit",
        "incremental (1st since full)",
        "incremental (2nd since full)",
        "full: every 3rd is",
        "incremental (1st since full)",
    ]
    starts = Starts(went.config)
    roots = [starts.root(("ranker", "wide", 1, fit))[3] for fit in range(1, 6)]
    assert roots == [1, 1, 1, 4, 4]
    assert [one.parent for one in starts_of(went.config).values()] == [None, 1, 2, None, 4]


def test_what_cannot_go_on_or_is_not_asked_to_has_no_beginning(tmp_path: Path) -> None:
    went = Went(tmp_path)
    assert Starts(went.config).goes_on == {"trained_v1", "own_v1", "wide_v1"}
    assert went.made("ranker", "linear", 1) is None
    assert went.made("space", "tfidf_svd", 1) is None
    full = Went(tmp_path / "full", "train: {lines: {wide_v1: incremental}}\n")
    assert Starts(full.config).goes_on == {"wide_v1"}
    assert Starts(Went(tmp_path / "short", "train: incremental\n").config).goes_on == {
        "trained_v1", "own_v1", "wide_v1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("wide: incremental", r"learn by steps \(trained_v1, own_v1, wide_v1\), got wide"),
        ("linear_v1: incremental", "linear_v1: incremental, but it is fitted from nothing"),
        ("decay_v1: incremental", "decay_v1: incremental, but it has no weights"),
        ("learned_decay_v1: incremental", "training of trained_v1: name that"),
    ],
)
def test_a_line_that_cannot_go_on_is_refused(lines: str, why: str, tmp_path: Path) -> None:
    went = Went(tmp_path, f"train: {{lines: {{{lines}}}}}\n")
    with pytest.raises(InputError, match=why):
        plan(went.config, went.ledger, NOW)


def test_a_retired_parent_makes_a_full_fit(tmp_path: Path) -> None:
    went = Went(tmp_path)
    went.made("ranker", "wide", 1)
    went.retire("ranker", "wide", 1)
    assert str(went.next("ranker", "wide")) == "full: wide_v1, its newest fit, is retired"


def test_it_goes_on_from_what_serves_and_not_from_what_was_taken_back(tmp_path: Path) -> None:
    went = Went(tmp_path)
    went.made("ranker", "wide", 1)
    went.made("ranker", "wide", 2)
    with went.ledger.engine.begin() as connection:
        for number in (1, 2):
            made_at = datetime(2026, 3, number, tzinfo=UTC).isoformat()
            connection.execute(sa.insert(RELEASES).values(number=number, made_at=made_at))
            fit = {"kind": "ranker", "name": "wide", "version": 1, "fit": number}
            connection.execute(sa.insert(RELEASE_FITS).values(release=number, **fit))
    promote(went.config, 2)
    assert went.next("ranker", "wide") == Start(2, 2)
    promote(went.config, 1)
    assert went.next("ranker", "wide") == Start(1, 1)


def test_lines_begin_as_their_space_does_or_anew_with_it(tmp_path: Path) -> None:
    went = Went(tmp_path)
    went.made("space", "trained", 1)
    for name in ("decay", "learned_decay"):
        assert went.made("line", name, 1) is None
    went.made("space", "trained", 2)
    f2 = Space("trained", 1, 2)
    for name in ("decay", "learned_decay"):
        assert went.made("line", name, 2, f2) == Start(1, 1)
    starts = Starts(went.config)
    assert starts.root_of_view("member_activity_decay_v1_f2") == ("line", "decay", 1, 1)
    went.made("space", "trained", 3)
    assert str(went.made("space", "trained", 4)) == "full: every 3rd is"
    assert went.made("line", "decay", 3, Space("trained", 1, 4)) is None  # other coordinates
    assert Starts(went.config).root(("line", "decay", 1, 3)) == ("line", "decay", 1, 3)
    # A line with a training of its own goes on only where its space is the same.
    went.made("line", "own", 1, Space("tfidf_svd", 1, 1))
    assert went.next("line", "own", Space("tfidf_svd", 1, 1)) == Start(1, 1)
    assert str(went.next("line", "own", Space("tfidf_svd", 1, 2))) == (
        "full: tfidf_svd_v1_f2 has other coordinates than tfidf_svd_v1"
    )


def test_a_try_that_was_killed_leaves_no_beginning_behind(tmp_path: Path) -> None:
    went = Went(tmp_path)
    went.made("ranker", "wide", 1)
    key = ("ranker", "wide", 1, 2)
    Starts(went.config).note(key, Start(1, 1))
    Starts(went.config).note(key, None)  # train: full, by now
    assert key not in starts_of(went.config)


def test_the_plan_says_where_fits_begin(tmp_path: Path) -> None:
    went = Went(tmp_path)
    went.run(MIDNIGHT)
    went.made("space", "trained", 1)
    went.made("line", "learned_decay", 1)
    went.made("ranker", "wide", 1)
    whys = {str(part): part.why for part in plan(went.config, went.ledger, NOW).parts}
    assert whys["space trained_v1"].endswith("30d; incremental (1st since full)")
    assert whys["ranker wide_v1"] == (
        "it reads trained_v1, fitted again; incremental (1st since full)"
    )
    assert "full" not in whys["ranker linear_v1"]
    (went.root / "activity.yaml").write_text(
        "items: {text: [title]}\ntrain: {lines: {wide_v1: incremental}}\n"
    )
    went.touch(MIDNIGHT - 90 * DAY)
    whys = {str(part): part.why for part in plan(went.config, went.ledger, NOW).parts}
    assert whys["ranker wide_v1"].endswith(
        "full: learned_decay_v1, which it reads, has other coordinates now"
    )
