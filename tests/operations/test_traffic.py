"""A share of the traffic: who is answered by what, growing, ending; one pointer and one share."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operations.experiments.assignment import arms_of
from operations.experiments.records import experiments, start
from operations.experiments.verdict import Verdict
from operations.ledger import Ledger
from operations.releases import (
    history,
    note_gates,
    promote,
    retire,
    rollback,
    serving,
    standby,
    to_retire,
)
from operations.traffic import Pointer, Terms, Traffic, end_share, promote_in_part, traffic
from tests.operations.test_releases import make
from transformations.config import Config
from transformations.errors import InputError

TERMS = Terms("positive per member", (), 0.05, 2, 10_000)


@pytest.fixture
def config(tmp_path):
    return Config.model_validate({"data_dir": str(tmp_path / "data"), "items": {"text": ["title"]}})


def test_members_have_the_release_of_their_arm_and_keep_it_as_it_grows(config):
    make(config, 1, 2)
    promote(config, 1)
    start(Ledger(config), "layout", "positive", 0.5, 0.05)
    assert Pointer(config).traffic().shared is None
    one = promote_in_part(config, 2, 0.1, TERMS, "looked at")
    assert (one.name, one.control, one.release, one.metric) == (
        "release_2", "1", 2, "positive per member",
    )  # fmt: skip
    before: dict[int, int | None] = {}
    for share in (0.1, 0.3, 0.5):
        if share > 0.1:
            promote_in_part(config, 2, share, TERMS)
        now = Pointer(config).traffic()
        assert now == traffic(config)
        assert (now.release, now.shared and now.shared.share) == (1, share)
        assignments = [each.assignment for each in now.experiments]
        counts = {1: 0, 2: 0}
        for member in range(500):
            release, arm = now.of(member)
            assert arm == arms_of(assignments, member)
            assert (release == 2) == ("release_2:treatment" in (arm or ""))
            assert before.get(member) in (None, release)
            if "release_2:" in (arm or ""):
                before[member] = release
                counts[release or 0] += 1
        assert abs(counts[1] - counts[2]) < 60
    assert serving(config) == 1
    assert [row["share"] for row in history(config)[:3]] == [0.5, 0.3, 0.1]
    promote(config, 2)
    ended = next(each for each in experiments(Ledger(config)) if each.release)
    assert (traffic(config).shared, ended.why) == (None, "release 2 serves all")
    assert traffic(config).of(7)[0] == 2


def test_what_has_a_share_stays_open_and_published_until_it_ends(config):
    make(config, 1, 2, 3, 4, 5)
    promote(config, 1)
    one = promote_in_part(config, 2, 0.1, TERMS)
    assert standby(config) == [5, 4, 2]
    assert to_retire(config) == [3]
    with pytest.raises(InputError, match="release 2 serves; first let another one serve"):
        retire(config, 2)
    with pytest.raises(InputError, match="release 2 has 10% of the members; only one release"):
        promote_in_part(config, 3, 0.1, TERMS)
    end_share(config, one, Verdict("stop for harm", "worse."), "taken back")
    assert (serving(config), traffic(config).shared, to_retire(config)) == (1, None, [2, 3])
    assert experiments(Ledger(config))[0].verdict == "stop for harm: worse."
    assert [(row["release"], row["is_rollback"]) for row in history(config)[:2]] == [
        (1, True), (2, False),
    ]  # fmt: skip
    again = promote_in_part(config, 2, 0.2, TERMS)
    assert (again.name, again.salt == one.salt) == ("release_2_2", False)


def test_what_is_refused(config):
    make(config, 1, 2, 3)
    with pytest.raises(InputError, match="nothing serves yet, so release 2 has nothing to share"):
        promote_in_part(config, 2, 0.1, TERMS)
    promote(config, 1)
    with pytest.raises(InputError, match=r"above 0 and at most 0\.5, or 1 for all, got 0\.7"):
        promote_in_part(config, 2, 0.7, TERMS)
    with pytest.raises(InputError, match="release 1 serves all already"):
        promote_in_part(config, 1, 0.1, TERMS)
    promote_in_part(config, 2, 0.2, TERMS)
    with pytest.raises(InputError, match=r"expected a share above 0\.2, got 0\.1"):
        promote_in_part(config, 2, 0.1, TERMS)
    rollback(config)
    note_gates(config, 3, {"passed": False, "why": "slow"})
    with pytest.raises(InputError, match="release 3 may not serve: slow"):
        promote_in_part(config, 3, 0.1, TERMS)
    retire(config, 3)
    note_gates(config, 3, {"passed": True})
    with pytest.raises(InputError, match="release 3 is retired"):
        promote_in_part(config, 3, 0.1, TERMS)
    assert traffic(config) == Traffic(1)  # nothing of it was noted
    assert len(experiments(Ledger(config))) == 1


@dataclass
class Told:
    """What should serve, by hand."""

    stack: list[int] = field(default_factory=list)
    shared: tuple[int, float] | None = None


SHARES = st.tuples(st.integers(1, 3), st.sampled_from([0.1, 0.25, 0.5]))


@given(moves=st.lists(st.one_of(st.integers(1, 3), SHARES, st.just("back")), max_size=10))
@settings(max_examples=12, deadline=None)
def test_moves_in_any_order_are_those_by_hand(tmp_path_factory, moves):
    folder = tmp_path_factory.mktemp("moves")
    config = Config.model_validate({"data_dir": str(folder), "items": {"text": ["title"]}})
    make(config, 1, 2, 3)
    told = Told()
    for move in moves:
        now = told.stack[-1:]
        if isinstance(move, int):
            promote(config, move)
            told.stack += [move] if now != [move] else []
            told.shared = None
        elif isinstance(move, tuple):
            number, share = move
            same = told.shared is None or (told.shared[0] == number and told.shared[1] < share)
            if now and now != [number] and same:
                promote_in_part(config, number, share, TERMS)
                told.shared = number, share
            else:
                with pytest.raises(InputError):
                    promote_in_part(config, number, share, TERMS)
        elif told.shared is not None:
            rollback(config)
            told.shared = None
        elif len(told.stack) > 1:
            rollback(config)
            told.stack.pop()
        else:
            with pytest.raises(InputError):
                rollback(config)
        seen = traffic(config)
        assert seen.release == (told.stack[-1] if told.stack else None)
        assert (seen.shared and (seen.shared.release, seen.shared.share)) == told.shared
