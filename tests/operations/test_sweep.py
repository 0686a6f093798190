"""What a sweep takes and what it leaves: on folders that hold little more than their names."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from operations.ledger import Ledger
from operations.sweep import before_removing, unneeded
from pipelines.cli import app as cli
from tests.operations.test_rhythm import DAY, MIDNIGHT, Noted
from tests.worlds.events import Event, write_activity
from transformations import archive
from transformations.config import CONFIG_VARIABLE
from transformations.errors import InputError
from transformations.files import replacing_folder
from transformations.layout import as_of_name, note_period, partition, period_of
from transformations.read_so_far import ReadSoFar, load, periods, save

RETENTION = "retention: {activity: 60d, snapshots: 60d, impressions: 60d, quarantine: 60d}"


def put(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(file.name.encode())
    return file


def gone(noted: Noted) -> set[str]:
    """Return what would be removed, relative to the data folder."""
    found = unneeded(noted.config, Ledger(noted.config))
    return {str(path.relative_to(noted.config.data)) for one in found for path in one.paths}


@pytest.fixture
def kept(tmp_path: Path) -> Noted:
    """A workspace with fits in use, whose tables are empty."""
    noted = Noted(tmp_path / "kept", RETENTION)
    noted.run(MIDNIGHT)
    noted.fit_all(MIDNIGHT - 5 * DAY)
    layout = noted.config.layout
    for name in ("average", "decay"):
        put(layout.artifact(name, 1) / "manifest.json")
    put(layout.ranker("linear", 1) / "manifest.json")
    for space in noted.spaces():
        for folder in (layout.items(space), layout.item_table(space), layout.item_encoder(space)):
            put(folder / "part-0.parquet")
    return noted


def test_nothing_goes_where_all_is_young_and_named(kept: Noted) -> None:
    put(partition(kept.config.layout.sequences, MIDNIGHT))
    assert gone(kept) == set()


@pytest.mark.parametrize(("days", "goes"), [(60, False), (61, True)])
def test_snapshots_go_by_the_age_of_the_one_that_is_online(
    kept: Noted, days: int, goes: bool
) -> None:
    layout, at = kept.config.layout, MIDNIGHT - days * DAY
    tables = [layout.sequences, layout.member_stats, layout.item_stats, layout.recommendations,
              layout.item_marks, layout.embeddings("view"), layout.lists("popular")]  # fmt: skip
    for table in tables:
        for kind in (at, MIDNIGHT):
            put(partition(table, kind))
    put(layout.sequences / "as_of=read" / "rows.parquet")
    put(layout.sequences / f"as_of=stream-{as_of_name(at - DAY)}" / "1.parquet")
    names = {f"{table.relative_to(layout.root)}/as_of={as_of_name(at)}" for table in tables}
    names.add(f"member_sequences/as_of=stream-{as_of_name(at - DAY)}")
    assert gone(kept) == (names if goes else set())


def test_periods_go_when_all_of_them_is_old_and_the_sources_are_not_read_again(
    kept: Noted,
) -> None:
    days = [100, 61, 30]
    events = [Event(1, 1, "APPLY", MIDNIGHT - back * DAY) for back in days]
    write_activity(kept.config, events)
    save(kept.config, ReadSoFar({"file": [1, 2]}, None, periods(kept.config)))
    old = gone(kept)
    assert {name.split("/")[0] for name in old} == {"activity"}
    left = {*periods(kept.config)} - {name.split("/")[1] for name in old}
    newest = f"period={MIDNIGHT - 30 * DAY:%Y-%m-%d}"
    assert left == {newest} or period_of(kept.config.layout.activity) != "day"
    before_removing(kept.config, unneeded(kept.config, Ledger(kept.config)))
    assert load(kept.config).files == {"file": [1, 2]}
    assert {*load(kept.config).periods} == left


def test_impressions_and_quarantine_go_by_the_end_of_their_period(kept: Noted) -> None:
    layout, cut = kept.config.layout, MIDNIGHT - 60 * DAY
    for table in (layout.impressions, layout.quarantine):
        table.mkdir(parents=True)
        note_period(table, "day")
        for start in (cut - DAY, cut):
            put(table / f"period={start:%Y-%m-%d}" / "part-0.parquet")
    old = f"period={cut - DAY:%Y-%m-%d}"
    assert gone(kept) == {f"impressions/{old}", f"quarantine/{old}"}


@pytest.mark.parametrize(("days", "goes"), [(59, False), (61, True)])
def test_days_of_the_archive_go_with_what_only_they_name(
    kept: Noted, days: int, goes: bool
) -> None:
    kept.change("activity.yaml", RETENTION, RETENTION.replace("{", "{archive: 60d, "))
    layout = kept.config.layout
    names = {}
    for text, ages in (("old", [days]), ("both", [days, 1]), ("new", [1])):
        sha = archive.put(kept.config, put(layout.state / text))
        names[text] = str(layout.archived(sha).relative_to(layout.root))
        for age in ages:
            at = MIDNIGHT - age * DAY
            read = archive.Read(at, at, "bus", archive.MESSAGES, "bus", "member_id", 1, 1, sha)
            archive.note(kept.config, read)
    index = f"archive/index/{MIDNIGHT - days * DAY:%Y-%m-%d}.jsonl"
    assert gone(kept) == ({index, names["old"]} if goes else set())
    orphan = archive.put(kept.config, put(layout.state / "orphan"))
    assert gone(kept) == ({index, names["old"]} if goes else set())  # its line may be on its way
    os.utime(layout.archived(orphan), (0, 0))
    assert str(layout.archived(orphan).relative_to(layout.root)) in gone(kept)


def test_what_no_fit_in_use_names_goes(kept: Noted) -> None:
    layout = kept.config.layout
    kept.fit("line", "decay", 2, MIDNIGHT)
    kept.retire("line", "decay", 1)
    kept.retire("ranker", "linear", 1)
    put(layout.artifact("decay", 1, 2) / "manifest.json")
    put(layout.artifact("other", 1) / "manifest.json")  # packaged, and never noted
    put(layout.state / "training" / "other_v1.0123.npz")
    half = put(layout.activity / "period=2026-01-01" / "part-0.parquet.12.tmp")
    assert gone(kept) == {
        "artifacts/decay/v1",
        "artifacts/other/v1",
        "artifacts/rankers/linear/v1",
        "state/training/other_v1.0123.npz",
        str(half.relative_to(layout.root)),
    }


def test_a_workspace_of_before_there_were_fits_keeps_its_packages(tmp_path: Path) -> None:
    noted = Noted(tmp_path)
    put(noted.config.layout.artifact("decay", 1) / "manifest.json")
    assert gone(noted) == set()


def test_retention_shorter_than_the_labels_of_a_ranker_is_refused(tmp_path: Path) -> None:
    noted = Noted(tmp_path, RETENTION)
    noted.change("catalog.py", "Linear(version=1,", "Linear(version=1, days=90,")
    with pytest.raises(InputError, match=r"retention\.activity: linear_v1 learns from the labels"):
        gone(noted)


def test_the_command_says_what_goes_and_removes_it_when_told(
    kept: Noted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = put(partition(kept.config.layout.sequences, MIDNIGHT - 70 * DAY))
    monkeypatch.setenv(CONFIG_VARIABLE, str(kept.root))

    def call(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["activity", "sweep", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    with replacing_folder(kept.config.data / "filling") as filling:  # by a service, meanwhile
        put(filling / "file")
        assert "member_sequences older than 2026-01-30" in call()
        assert old.exists()
        call("--yes")
        assert not old.parent.exists()
        assert filling.exists()
    assert "nothing to remove" in call("--yes")
    assert [file.name for file in (kept.config.data / "filling").iterdir()] == ["file"]


def test_ages_are_of_the_snapshot_that_is_online_not_of_the_clock(tmp_path: Path) -> None:
    noted = Noted(tmp_path, RETENTION)
    ended = datetime.fromisoformat("2013-01-01T00:00:00+00:00")
    noted.run(ended)
    put(partition(noted.config.layout.sequences, ended))
    assert gone(noted) == set()
