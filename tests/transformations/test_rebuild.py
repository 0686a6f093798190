"""`activity rebuild`: the same actions in other periods, also from an older version's folders."""

import shutil
from pathlib import Path

import pytest

from tests.worlds.events import AS_OF, DAY, Event, configure, write_source
from transformations.config import Config
from transformations.duck import connect, parquet
from transformations.errors import InputError
from transformations.layout import PART, partition_files, period_of
from transformations.rebuild import rebuild
from transformations.sources import stage_activity

EVENTS = [Event(n % 5, n, "APPLY", AS_OF - n * DAY) for n in range(1, 70)]


def rows(config: Config) -> list[tuple]:
    with connect(config) as con:
        files = parquet(partition_files(config.layout.activity))
        return con.execute(f"select * from {files} order by all").fetchall()


@pytest.fixture
def staged(tmp_path: Path) -> Config:
    write_source(tmp_path / "events.parquet", EVENTS)
    config = configure(tmp_path, events={"source": str(tmp_path / "events.parquet")})
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
    return config


@pytest.mark.parametrize(("period", "files"), [("day", 69), ("week", 11), ("month", 4)])
def test_the_same_actions_lie_in_other_periods(staged: Config, period, files: int) -> None:
    before = rows(staged)
    assert rebuild(staged, period) == (period, files, len(EVENTS))
    assert period_of(staged.layout.activity) == period
    assert rows(staged) == before
    with connect(staged) as con:
        assert stage_activity(staged, con, AS_OF).rows_out == 0


def test_by_default_a_file_is_filled(staged: Config) -> None:
    assert rebuild(staged)[0] == "month"


def test_folders_of_an_older_version_are_taken_over(staged: Config) -> None:
    before = rows(staged)
    activity = staged.layout.activity
    (activity / "_layout.json").unlink()
    for folder in activity.glob("period=*"):
        folder.rename(folder.with_name(folder.name.replace("period=", "date=")))
    with connect(staged) as con, pytest.raises(InputError, match="activity rebuild"):
        stage_activity(staged, con, AS_OF)
    rebuild(staged)
    assert rows(staged) == before
    assert not list(activity.glob("date=*"))
    with connect(staged) as con:
        assert stage_activity(staged, con, AS_OF).rows_out == 0


def test_one_that_was_killed_can_be_run_again(staged: Config) -> None:
    before = rows(staged)
    activity = staged.layout.activity
    new = activity.with_name("_activity.rebuilt")
    shutil.copytree(activity, new)  # killed before the old one was removed
    (next(new.glob("period=*")) / PART).unlink()
    rebuild(staged, "week")
    assert rows(staged) == before
    activity.rename(new)  # killed after it
    rebuild(staged, "month")
    assert rows(staged) == before


def test_without_activity_there_is_nothing_to_rebuild(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="first: activity run"):
        rebuild(configure(tmp_path))
