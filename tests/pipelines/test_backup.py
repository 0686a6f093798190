"""A workspace that lost its data: of the backup and the sources the same fits serve again."""

import shutil
from pathlib import Path

from typer.testing import CliRunner

from operations.fits import Fits, lines_of
from pipelines.cli import app as cli
from tests.worlds.workspace import AVERAGE, DECAY, END, Workspace


def called(workspace: Workspace, *arguments: str) -> str:
    done = CliRunner().invoke(cli.app, [*arguments, "--config", str(workspace.root)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_the_same_fits_serve_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    workspace.lines(AVERAGE, DECAY)
    workspace.run(END)
    made, service = {str(line) for line in lines_of(workspace.config)}, workspace.services()[0]
    space, before = Fits(workspace.config).space, workspace.online(service)
    packages = {
        file.relative_to(workspace.root): file.read_bytes()
        for file in (workspace.root / "data" / "artifacts").rglob("*")
        if file.is_file()
    }
    said = called(workspace, "backup", str(tmp_path / "b.tar"))
    assert "b.tar" in said
    assert "registry is not in it" not in said

    shutil.rmtree(workspace.root / "data")
    # The source has grown: what is fitted again would be another space.
    with (workspace.root / "source" / "items.csv").open("a") as items:
        items.writelines(f"g-{n},yellow horse {n}\n" for n in range(90, 99))
    assert "restored" in called(workspace, "restore", str(tmp_path / "b.tar"))
    workspace.run(END)
    assert {str(line) for line in lines_of(workspace.config)} == made
    assert Fits(workspace.config).space == space
    assert workspace.online(service) == before
    for name, content in packages.items():
        assert (workspace.root / name).read_bytes() == content

    # Over what ran since: nothing of it is left, and a run begins from the backup.
    assert "restored" in called(workspace, "restore", str(tmp_path / "b.tar"), "--over")
    assert not (workspace.root / "data" / "activity").exists()
    workspace.run(END)
    assert workspace.online(service) == before
