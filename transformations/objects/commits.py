"""The rule of commits: which objects a table is made of, where nothing can be renamed.

A table's folder holds objects that are never changed, and a manifest per commit, which is written
after them: `_commit-00000007.json`. A table is the union of what its commits added, without those
commits that a later one replaced. A commit that changes a file replaces the one that added it, and
adds again what else that one had, under the same objects. So no reader sees half of a commit.

`stores/commits.py` reads the same manifests by themselves; a test holds both equal.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

PREFIX = "_commit-"
MOST = 64
"""The next commit replaces all of them where more are in force; readers ask for each once."""


@dataclass(frozen=True)
class Added:
    """A file of a table.

    Attributes:
        name: What it is called, below the table's folder: `as_of=2026-03-01/part-0.parquet`.
        file: The object that holds it, below the same folder; no other commit made one so named.
        bytes: Its length.
        rows: Of a Parquet file; else None.
        made_by: A command, an item space, an aggregator.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    rows: int | None
    made_by: str


@dataclass(frozen=True)
class Commit:
    """A manifest.

    Attributes:
        number: No other commit of the table has it; a later one has a greater one.
        key: Of the writing, by which its writer knows it again.
        at: When it was written, in UTC.
        added: The files.
        replaced: The numbers of commits that no longer count.
    """

    number: int
    key: str
    at: datetime
    added: tuple[Added, ...]
    replaced: tuple[int, ...]

    def text(self) -> str:
        """Return the manifest's content, as JSON."""
        said = {
            "key": self.key,
            "at": self.at.isoformat(),
            "added": [asdict(one) for one in self.added],
            "replaced": [manifest(number) for number in self.replaced],
        }
        return json.dumps(said, indent=1) + "\n"


def manifest(number: int) -> str:
    """Return the name of a commit's manifest; in the order of the names they were written."""
    return f"{PREFIX}{number:08d}.json"


def number_of(name: str) -> int | None:
    """Return the number of the commit whose manifest is called so; None for any other file.

    >>> number_of(manifest(12)), number_of("_manifest.json")
    (12, None)
    """
    digits = name.removeprefix(PREFIX).removesuffix(".json")
    return int(digits) if name == f"{PREFIX}{digits}.json" and digits.isdecimal() else None


def parse(name: str, text: str | bytes) -> Commit:
    """Read a manifest.

    Raises:
        ValueError: it is not one.
    """
    number = number_of(name)
    try:
        said = json.loads(text)
        replaced = [number_of(other) for other in said["replaced"]]
        if number is None or None in replaced:
            raise ValueError(f"expected names such as {manifest(1)}, got {said['replaced']}")
        return Commit(
            number,
            said["key"],
            datetime.fromisoformat(said["at"]),
            tuple(Added(**one) for one in said["added"]),
            tuple(number for number in replaced if number is not None),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a manifest of a commit: {error!r}") from error


class Commits:
    """The commits of one table.

    Attributes:
        files: Name → what is in force of it.
    """

    def __init__(self, commits: Mapping[int, Commit]) -> None:
        self._commits = commits
        gone = {number for one in commits.values() for number in one.replaced}
        self._in_force = {number: commits[number] for number in sorted({*commits} - gone)}
        self.files: dict[str, Added] = {
            added.name: added for one in self._in_force.values() for added in one.added
        }

    @property
    def named(self) -> set[str]:
        """The objects that any commit names, in force or not."""
        return {added.file for one in self._commits.values() for added in one.added}

    @property
    def next_number(self) -> int:
        """The number of the next commit."""
        return max(self._commits, default=0) + 1

    def change(
        self, put: Mapping[str, Added], gone: Collection[str], key: str, at: datetime
    ) -> Commit:
        """Return the commit that adds files, or puts them in place of others, and takes some away.

        Args:
            put: By their names.
            gone: Names of files.
        """
        changed = {*put, *gone}
        replaced = [
            number
            for number, one in self._in_force.items()
            if len(self._in_force) > MOST or any(added.name in changed for added in one.added)
        ]
        kept = [
            added
            for number in replaced
            for added in self._in_force[number].added
            if added.name not in changed
        ]
        return Commit(self.next_number, key, at, (*kept, *put.values()), tuple(replaced))

    def done_with(self, before: datetime) -> tuple[list[str], list[int]]:
        """Return the objects and the manifests that nobody reads who began after `before`.

        The objects have to go first, then the manifests in this order: of two of which one replaced
        the other, that other one goes first. Else what it added would count again.
        """
        since: dict[int, datetime] = {}
        for number in sorted(self._commits):
            for other in self._commits[number].replaced:
                since.setdefault(other, self._commits[number].at)
        done = [n for n in sorted(self._commits) if n in since and since[n] < before]
        needed = {
            added.file
            for number, one in self._commits.items()
            if number not in done
            for added in one.added
        }
        files = {added.file for number in done for added in self._commits[number].added}
        return sorted(files - needed), done
