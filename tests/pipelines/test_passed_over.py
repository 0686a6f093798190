"""What of a source is not read is said by `run` and `status`."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from pipelines.cli.status import status
from pipelines.daily import stage_events, stage_the_items
from tests.worlds.workspace import END, Workspace
from transformations.duck import connect


def test_run_and_status_say_what_they_pass_over(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    for name in ("events", "items"):
        (tmp_path / "source" / name).mkdir()
        (tmp_path / "source" / f"{name}.csv").rename(tmp_path / "source" / name / "a.CSV")
        ws.setting(f"source/{name}.csv", f"source/{name}")
    (tmp_path / "source" / "events" / "a[b].json").write_text("{}")
    (tmp_path / "source" / "items" / "b.csv").touch()

    def stage(stages: object) -> None:
        with connect(ws.config) as con:
            stage_events(ws.config, con, END, stages)  # type: ignore[arg-type]
            stage_the_items(ws.config, con, END, stages)  # type: ignore[arg-type]

    ws.do("run", stage)
    shown = StringIO()
    status(Console(file=shown, width=200), ws.config)
    for said in (ws.said, shown.getvalue()):
        assert "events.source: passed over, because the name has another end than" in said
        assert "a[b].json" in said
        assert "items.source: passed over, because the file is empty: b.csv" in said
