"""The files of all tables, with what makes each again; and taking damaged ones away."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformations.config import Config
from transformations.layout import partition_key
from transformations.seals import damage

TAKE_AWAY = "activity rebuild --damaged"
SOURCES_AGAIN = f"{TAKE_AWAY}, then activity run: it reads the sources again"
ENCODED_AGAIN = f"{TAKE_AWAY}, then activity run: it encodes those items again"


@dataclass(frozen=True)
class TableFile:
    """A file of a table.

    Attributes:
        mend: What to do where it is damaged.
    """

    path: Path
    mend: str


def table_files(config: Config) -> Iterator[TableFile]:
    """Yield the files of the data folder's tables, and of its item tables for request time."""
    layout = config.layout
    for folder in (layout.activity, layout.quarantine, layout.searches.parent):
        yield from _of(folder, SOURCES_AGAIN)
    for file in (layout.staged_items, layout.members):
        yield from _of(file.parent, "activity run: it writes it again")
    yield from _of(layout.root / "items", ENCODED_AGAIN)
    for file in sorted((layout.root / "item_tables").rglob("*")):
        if file.suffix in (".npy", ".arrow"):
            yield TableFile(file, f"{TAKE_AWAY}: the service makes it again")
    for folder in (layout.all_lists, layout.recommendations):
        yield from _of(folder, f"{TAKE_AWAY}, then activity run: the next one makes its own")
    for folder in (layout.sequences, layout.member_stats, layout.item_stats, layout.all_embeddings):
        for file in sorted(folder.rglob("*.parquet")):
            yield TableFile(file, _mend_of_snapshot(file))
    yield from _of(layout.item_marks, f"{TAKE_AWAY}: the next run marks the items again")
    yield from _of(layout.logged_features, f"{TAKE_AWAY}: activity skew compares the others")
    yield from _of(layout.impressions, f"{TAKE_AWAY}: rankers learn without what was shown there")
    yield from _of(layout.root / "training_examples", f"{TAKE_AWAY}, then train again")


def take_away(config: Config) -> list[TableFile]:
    """Move damaged files to `state/damaged/`, so that what makes them can; return them.

    Of activity, quarantine and searches the next run reads all sources again.
    """
    layout, taken = config.layout, []
    for file in list(table_files(config)):
        if not file.path.exists() or not any(damage([file.path])):
            continue  # also gone with another file of its item table
        place = layout.state / "damaged" / file.path.relative_to(layout.root)
        place.parent.mkdir(parents=True, exist_ok=True)
        if layout.root / "item_tables" in file.path.parents:
            shutil.rmtree(file.path.parent)  # made of the items' files, as a whole
        else:
            file.path.replace(place)
        taken.append(file)
        if file.mend == SOURCES_AGAIN:
            (layout.state / "stg_activity.json").unlink(missing_ok=True)
    return taken


def _of(folder: Path, mend: str) -> Iterator[TableFile]:
    return (TableFile(file, mend) for file in sorted(folder.rglob("*.parquet")))


def _mend_of_snapshot(file: Path) -> str:
    as_of = partition_key(file)
    if as_of.startswith("stream-"):
        return f"{TAKE_AWAY}: training joins lack what was streamed then"
    if as_of == "read":
        return "activity evaluate: it writes it again"
    return f"{TAKE_AWAY}, then activity backfill --from {as_of[:10]} --to {as_of[:10]}"
