"""What is said while a stage lasts: bars on a terminal, a few lines in a log."""

import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from models.training.fitting import Step
from operations.ledger import Ledger
from pipelines.progress import Stage, shown, tell_while
from pipelines.training import show_step
from transformations.config import CONFIG_VARIABLE, ROOT, load_config


class Clock:
    """A clock that passes only while somebody waits for the end of a stage."""

    def __init__(self, lasts: float, work: Callable[[Stage, float], object]) -> None:
        self.now, self.lasts, self.work = 0.0, lasts, work
        self.stage: Stage | None = None

    def __call__(self) -> float:
        return self.now

    def ended(self, seconds: float) -> bool:
        """Pass the time, the stage working, until it has waited or the stage ends."""
        self.now = min(self.now + seconds, self.lasts)
        assert self.stage is not None
        self.work(self.stage, self.now)
        return self.now >= self.lasts


def told(
    lasts: float, work: Callable[[Stage, float], object] = lambda *_: None, **stage: object
) -> list[str]:
    """Return the lines that a log has of a stage that lasts so many seconds."""
    clock, log = Clock(lasts, work), StringIO()
    clock.stage = Stage("publish", clock=clock, **stage)  # type: ignore[arg-type]
    tell_while(clock.stage, Console(file=log, width=40), clock.ended)
    return log.getvalue().splitlines()


def test_a_log_is_told_after_2_seconds_then_whenever_the_time_doubles_then_each_minute() -> None:
    assert told(2) == []
    assert told(250) == [
        "… publish, 2 s",
        "… publish, 4 s",
        "… publish, 8 s",
        "… publish, 16 s",
        "… publish, 32 s",
        "… publish, 1 min 4 s",
        "… publish, 2 min 4 s",
        "… publish, 3 min 4 s",
        "… publish, 4 min 4 s",
    ]


def test_a_log_is_told_what_is_done_how_fast_and_how_long_it_will_take() -> None:
    def work(stage: Stage, now: float) -> None:
        stage.update(int(1_000 * now))

    assert told(10, work, total=10_000) == [
        "… publish, 2,000 of 10,000 rows, 1,000 per second, 2 s, about 8 s left",
        "… publish, 4,000 of 10,000 rows, 1,000 per second, 4 s, about 6 s left",
        "… publish, 8,000 of 10,000 rows, 1,000 per second, 8 s, about 2 s left",
    ]
    assert told(3, work) == ["… publish, 2,000 rows, 1,000 per second, 2 s"]
    # More than was expected: how much more is not known.
    assert told(3, work, total=100) == ["… publish, 2,000 rows, 1,000 per second, 2 s"]
    assert told(3, total=100, unit="days") == ["… publish, 0 of 100 days, 2 s"]


def test_a_training_shows_its_epochs_and_begins_its_estimate_again_with_the_next_phase() -> None:
    def work(stage: Stage, now: float) -> None:
        phase, epoch = ("select", int(now)) if now < 20 else ("refit", int(now) - 20)
        show_step(stage, "cnn_v1", Step(phase, epoch, 40, {"loss": 0.5}))

    lines = told(40, work, total=40, unit="epochs")
    assert lines[-2:] == [
        (
            "… publish: cnn_v1, select, loss 0.5000, 16 of 40 epochs, 1 per second, 16 s, "
            "about 24 s left"
        ),
        # Of the second phase it saw but one moment: no estimate yet.
        "… publish: cnn_v1, refit, loss 0.5000, 12 of 40 epochs, 32 s",
    ]


def test_a_stage_that_fails_is_told_of_no_more() -> None:
    class OutOfOrderError(Exception):
        pass

    log = Console(file=StringIO())
    with pytest.raises(OutOfOrderError), shown(Stage("publish"), log):
        raise OutOfOrderError
    assert log.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_has_a_bar_that_fits_and_is_gone_in_the_end() -> None:
    terminal = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    stage = Stage("member_embeddings", total=100_116_521, done=53_000_000, clock=lambda: 0.0)
    stage.began = stage.counted_since = -3_600.0
    with shown(stage, terminal):
        pass
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    shown_lines = [line for line in text.splitlines() if "…" not in line]
    assert any("━━━━━━━━━━" in line and "member_embeddings" in line for line in shown_lines)
    pace = "53,000,000 of 100,116,521 rows, 14,722 per second, 1 h 0 min, about 53 min 20 s left"
    assert pace in " ".join(text.split())
    assert text.endswith("\x1b[2K")  # the last line that it had is erased


IMPORTS = """
import sys

class Told:
    def find_spec(self, name, path=None, target=None):
        if name in ("feast", "tensorflow"):
            print("importing", name, file=sys.stderr, flush=True)

sys.meta_path.insert(0, Told())
from pipelines.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "libraries"),
    [
        (["run", "--as-of", "2999-01-01"], "Feast and TensorFlow"),
        (["show", "7"], "Feast"),
        (["reset"], "Feast"),
    ],
)
def test_the_first_lines_of_a_command_come_before_its_imports(
    tmp_path, command: list[str], libraries: str
) -> None:
    config = tmp_path / "activity.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\nitems: {{text: [title]}}\n")
    Ledger(load_config(config))
    said = subprocess.run(
        [sys.executable, "-c", IMPORTS, *command],
        cwd=ROOT,
        env=os.environ | {CONFIG_VARIABLE: str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert said[0] == f"workspace {config}"
    assert said[1] == f"… loading {libraries}"
    assert any(line == "importing feast" for line in said[2:])
