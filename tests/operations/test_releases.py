"""Releases in the ledger: one pointer a target, its history, what retires, what a kill leaves."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from operations.ledger import Ledger
from operations.releases import (
    RELEASES,
    TARGETS,
    history,
    note_gates,
    pin,
    promote,
    releases,
    retire,
    rollback,
    serving,
    standby,
    to_retire,
    unpin,
)
from operations.traffic import Pointer, traffic
from transformations.config import ROOT, Config
from transformations.errors import InputError


@pytest.fixture
def config(tmp_path):
    return Config.model_validate({"data_dir": str(tmp_path / "data"), "items": {"text": ["title"]}})


def make(config: Config, *numbers: int) -> None:
    rows = [
        {"number": number, "made_at": f"2026-01-0{number}T00:00:00+00:00"} for number in numbers
    ]
    with Ledger(config).engine.begin() as connection:
        connection.execute(sa.insert(RELEASES), rows)


def test_nothing_serves_before_the_first_promotion(config):
    assert (serving(config), releases(config), standby(config), history(config)) == (
        None,
        [],
        [],
        [],
    )
    make(config, 1)
    assert serving(config) is None
    with pytest.raises(InputError, match="promote N lets one serve"):
        rollback(config)
    with pytest.raises(InputError, match=r"expected the number of a release \(1\), got 2"):
        promote(config, 2)


def test_a_pointer_is_the_last_promotion_and_a_rollback_goes_back_in_history(config):
    make(config, 1, 2, 3)
    for number in (1, 2, 3):
        promote(config, number, f"reason {number}")
    pointer = Pointer(config)
    assert pointer.traffic().release == 3
    assert rollback(config, "worse") == {"online": 2, "batch": 2}
    assert pointer.traffic().release == 2
    assert rollback(config) == {"online": 1, "batch": 1}
    with pytest.raises(InputError, match="served before 1 and is not retired, found none"):
        rollback(config)
    promote(config, 3, targets=["online"])
    assert (serving(config, "online"), serving(config, "batch")) == (3, 1)
    assert rollback(config) == {"online": 1}  # not to 2: that was taken back itself
    said = [(row["target"], row["release"], row["is_rollback"]) for row in history(config)[:2]]
    assert said == [("online", 1, True), ("online", 3, False)]
    assert history(config)[-1]["why"] == "reason 1"


def test_what_a_gate_refuses_does_not_serve(config):
    make(config, 1)
    note_gates(config, 1, {"passed": False, "why": "NDCG@10 is 0.02 lower"})
    with pytest.raises(InputError, match=r"release 1 may not serve: NDCG@10 is 0\.02 lower"):
        promote(config, 1)
    note_gates(config, 1, {"passed": True})
    promote(config, 1)
    assert serving(config) == 1


def test_old_ones_retire_unless_they_serve_may_come_back_or_are_pinned(config):
    make(config, 1, 2, 3, 4, 5, 6)
    promote(config, 2)
    promote(config, 3)
    assert to_retire(config) == [1, 4]  # 5 and 6 are the newest, 3 serves, 2 did before
    assert standby(config) == [6, 5, 2]
    pin(config, 1, "the search team reads it")
    assert to_retire(config) == [4]
    with pytest.raises(InputError, match=r"pinned \(the search team reads it\).*unpin 1"):
        retire(config, 1)
    with pytest.raises(InputError, match="release 3 serves; first let another one serve"):
        retire(config, 3)
    unpin(config, 1)
    for number in to_retire(config):
        retire(config, number)
    with pytest.raises(InputError, match="release 4 is retired: its fits are not published"):
        promote(config, 4)
    with pytest.raises(InputError, match="release 4 is retired"):
        pin(config, 4, "late")
    retire(config, 2)
    with pytest.raises(InputError, match="found none"):
        rollback(config)
    assert [one.number for one in releases(config) if one.is_living] == [6, 5, 3]
    at = releases(config)[2].retired_at
    retire(config, 4)  # what a killed one left is done again
    assert releases(config)[2].retired_at == at


@given(moves=st.lists(st.one_of(st.integers(1, 4), st.just("back")), max_size=12))
@settings(max_examples=15, deadline=None)
def test_history_is_a_stack(tmp_path_factory, moves: Sequence[int | str]):
    folder = tmp_path_factory.mktemp("stack")
    config = Config.model_validate({"data_dir": str(folder), "items": {"text": ["title"]}})
    make(config, 1, 2, 3, 4)
    stack: list[int] = []
    for move in moves:
        if isinstance(move, int):
            promote(config, move)
            if stack[-1:] != [move]:
                stack.append(move)
        elif len(stack) < 2 or all(number == stack[-1] for number in stack):
            with pytest.raises(InputError):
                rollback(config)
        else:
            rollback(config)
            stack.pop()
        assert {serving(config, target) for target in TARGETS} == {stack[-1] if stack else None}


MOVER = """
import sys
from operations.releases import promote, rollback
from operations.traffic import Terms, promote_in_part
from transformations.config import Config
config = Config.model_validate({"data_dir": sys.argv[1], "items": {"text": ["title"]}})
terms = Terms("positive per member", (), 0.05, 2, 10_000)
while True:
    print("again", flush=True)
    promote(config, 1)
    promote_in_part(config, 2, 0.1, terms)
    promote_in_part(config, 2, 0.2, terms)
    promote(config, 2)
    promote_in_part(config, 1, 0.1, terms)
    rollback(config)
"""


def test_a_killed_move_leaves_the_one_truth_of_before_or_after_it(config):
    make(config, 1, 2)
    for pause in (0.0, 0.003, 0.011):
        with subprocess.Popen(
            [sys.executable, "-c", MOVER, str(config.data)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(2):  # it moves
                process.stdout.readline()
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        online, batch = (serving(config, target) for target in TARGETS)
        assert online == batch
        assert online in (1, 2)
        (last, *_), shared = history(config), traffic(config).shared
        assert (shared is not None) == (last["share"] < 1)
        if shared is not None:
            assert (shared.control, shared.release) == (str(online), last["release"])
            assert shared.share == last["share"]
    promote(config, 1)  # the ledger is whole
    assert Pointer(config).traffic().release == 1


def test_a_poll_of_the_pointer_makes_no_ledger_where_it_was_taken_away(config):
    make(config, 1)
    pointer = Pointer(config)
    config.layout.ledger.unlink()
    with pytest.raises(sa.exc.OperationalError):
        pointer.traffic()
    assert not config.layout.ledger.exists()
