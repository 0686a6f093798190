"""Puts a backup into place: all files are checked first, the ledger comes last."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from operations.backup import LEDGER, REGISTRY, REPLACED, Backup, opened, registry_of
from operations.workspace import workspace_of
from transformations.config import Config
from transformations.errors import InputError
from transformations.files import replacing
from transformations.seals import made_by, sealing
from transformations.tombstones import Tombstones

TOMBSTONES, KEY = "state/tombstones.txt", "state/forget.key"


def restore(config: Config, source: Path, clear: Callable[[], object] | None = None) -> Backup:
    """Put a backup into the configured data folder; the caller holds the lock of its state.

    Impressions and logged features that came since the backup stay. Whom the workspace forgot since
    stays forgotten. Killed before its end, it leaves no ledger, and can be run again.

    Args:
        clear: Removes what runs made here, the ledger last; called once the backup is known to be
            whole. None: a data folder with a ledger is refused.

    Raises:
        InputError: it is no backup, something ran here already, it is another workspace's, or the
            tombstones here are by another key.
        RunFailedError: a file of the backup is damaged; nothing was changed.
    """
    layout = config.layout
    if layout.ledger.exists() and clear is None:
        raise InputError(
            f"something ran in {config.data} already: expected a data folder without a ledger. To "
            "remove what runs made there, and what is online, and put the backup in its place: "
            "activity restore --over"
        )
    with opened(source, config.data) as (backup, folder):
        _refuse_another(config, backup, folder)
        registry = registry_of(config)
        if REGISTRY in backup.files and registry is None:
            raise InputError(
                f"{source} has a registry of Feast's that was a file, and "
                f"{config.path(config.feature_store)} names none: name it, then restore again"
            )
        if layout.ledger.exists() and clear is not None:
            clear()
        for name in REPLACED:
            shutil.rmtree(layout.root / name, ignore_errors=True)
        _unite(config, folder)
        names = sorted({*backup.files} - {TOMBSTONES, KEY, LEDGER})
        places = {name: layout.root / name for name in names}
        if registry is not None and REGISTRY in places:
            places[REGISTRY] = registry
        for name, place in places.items():
            with replacing(place) as temporary:
                shutil.move(folder / name, temporary)
        # With all manifests in place, which name what is left out now.
        for place in places.values():
            if place.suffix == ".parquet":
                _forget_in(config, place)
        # Nothing counts as restored before the ledger is there.
        with replacing(layout.ledger) as temporary:
            shutil.move(folder / LEDGER, temporary)
    return backup


def _refuse_another(config: Config, backup: Backup, folder: Path) -> None:
    if config.layout.workspace.exists() and workspace_of(config).id != backup.workspace:
        raise InputError(
            f"the backup is of the workspace with the id {backup.workspace}, {config.data} is "
            f"{workspace_of(config)}. Nothing was changed. Restore it into a data folder of its own"
        )
    key = folder / KEY
    if (
        config.layout.tombstones.exists()
        and key.exists()
        and key.read_text().split() != config.layout.forget_key.read_text().split()
    ):
        raise InputError(
            f"{config.layout.tombstones} and the backup's tombstones were by different keys, "
            "so they cannot be united. Nothing was changed. Restore the backup into "
            "an empty data folder, then forget there whom this one forgot"
        )


def _unite(config: Config, folder: Path) -> None:
    """Write the tombstones of both: of the backup, and of the workspace as it is."""
    layout, theirs = config.layout, folder / TOMBSTONES
    if not theirs.exists():
        return
    mine = layout.tombstones.read_text().split() if layout.tombstones.exists() else []
    if not mine:
        with replacing(layout.forget_key) as temporary:
            shutil.move(folder / KEY, temporary)
    digests = sorted({*mine, *theirs.read_text().split()})
    with replacing(layout.tombstones) as temporary:
        temporary.write_text("".join(f"{digest}\n" for digest in digests))


def _forget_in(config: Config, file: Path) -> None:
    """Leave out of a file whom the workspace has forgotten since the backup."""
    tombstones = Tombstones(config)
    if not len(tombstones) or "member_id" not in pq.read_schema(file).names:
        return
    with pq.ParquetFile(file) as whole:
        rows = whole.read()
    kept = tombstones.kept(rows)
    if len(kept) < len(rows):
        with sealing(file, made_by(file) or "activity restore") as temporary:
            pq.write_table(kept, temporary, compression="zstd", write_page_checksum=True)
