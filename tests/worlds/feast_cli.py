"""Feast's own command line, run in a clone whose snapshot is online."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from serving import publish
from tests.worlds.applied import World, utc
from tests.worlds.clone import Clone

TODAY = utc(2)
FEAST = str(Path(sys.executable).with_name("feast"))


class FeastClone:
    """A clone of the repository with the tables of a tiny world, and `feast` in its root."""

    def __init__(self, folder: Path) -> None:
        self.clone = Clone(folder)
        self.root = self.clone.root
        self.world = World(self.root)
        # `feast` takes the clone for the repository, whose catalogue lies elsewhere.
        shutil.copy(self.root / "catalog.py", self.root / "models" / "catalog.py")
        self.world.snapshot(TODAY, {1: [(10, "APPLY", utc(1))], 2: []})
        self.world.items("part-0", {10: utc(1), 11: utc(1)})
        settings = json.loads(self.world.config.model_dump_json(exclude_defaults=True))
        (self.root / "activity.yaml").write_text(yaml.safe_dump(settings))

    def publish(self) -> None:
        """Do what `activity run` does with Feast."""
        config = self.world.config
        store = publish.open_store(config)
        publish.apply(config, store)
        publish.publish(config, store, TODAY)
        publish.read_back(config, store, TODAY)

    def feast(self, *arguments: str, fails: int = 0) -> str:
        """Run a command; return all that it printed; assert its exit code."""
        done = subprocess.run(
            [FEAST, *arguments],
            cwd=self.root,
            env=self.clone.environment | {"NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == fails, done.stdout
        return done.stdout

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a server for the length of the block; what it prints is the caller's to read."""
        process = subprocess.Popen(
            [FEAST, *arguments],
            cwd=self.root,
            env=self.clone.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=600)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
