"""Which item vectors are missing from the online store."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

from feast import FeatureStore

from transformations.config import Config
from transformations.duck import connect, sql
from transformations.files import replacing
from transformations.layout import part_files
from transformations.quoting import one_file
from transformations.timestamps import EPOCH

PROBED = 20


class ItemsOnline:
    """A note beside the data of which item vectors were published.

    Feast records the intervals of event time that a view was materialized for. That misses an item
    whose source row arrives late: its available_at lies inside a finished interval. So the note
    lists the item files too, with size and mtime. It is valid for one online store and registry.
    Because a store can be emptied meanwhile, a few items are looked up online first.
    """

    def __init__(self, config: Config, store: FeatureStore) -> None:
        """Read the note, or start without one."""
        self.config = config
        self.store = store
        self.view = config.item_view
        self.note = config.layout.state / "items_online" / f"{config.space}.json"
        self.files = {
            str(file): [file.stat().st_size, file.stat().st_mtime_ns]
            for file in part_files(config.items_dir)
        }

    def missing(self, as_of: datetime) -> tuple[datetime | None, int]:
        """Return the oldest available_at among the rows that are not online, and a row count.

        The count covers all rows from there to `as_of`, which is what materializing that range
        reads. None and 0 mean that nothing is missing.
        """
        if not self.files:
            return None, 0
        until, unchanged = self._known()
        with connect(self.config) as con:
            row = con.execute(
                sql("items_not_online", __file__),
                {
                    "files": [one_file(Path(file)) for file in self.files],
                    "until": until,
                    "unchanged": unchanged,
                    "as_of": as_of,
                },
            ).fetchone()
        return (None, 0) if row is None or row[0] is None else (row[0], row[1])

    def published(self, as_of: datetime) -> None:
        """Note that every vector available at `as_of` is online."""
        self.note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.note) as temporary:
            temporary.write_text(
                json.dumps(
                    {
                        "target": self._target(),
                        # A snapshot's publication may follow a later refresh.
                        "as_of": max(as_of, self.until).isoformat(),
                        "files": self.files,
                    }
                )
            )

    @property
    def until(self) -> datetime:
        """The as_of of the last publication into this store; 1970 without one."""
        note = json.loads(self.note.read_text()) if self.note.exists() else {}
        if note.get("target") != self._target():
            return EPOCH
        return datetime.fromisoformat(note["as_of"])

    def _known(self) -> tuple[datetime, list[str]]:
        """Return until when items are online, and the files that have not changed since."""
        if not self.note.exists():
            return EPOCH, []
        note, until = json.loads(self.note.read_text()), self.until
        unchanged = [file for file, stamp in self.files.items() if note["files"].get(file) == stamp]
        if until == EPOCH or not self._still_there(until, unchanged):
            return EPOCH, []
        return until, unchanged

    def _still_there(self, until: datetime, files: list[str]) -> bool:
        if not files:
            return True
        with connect(self.config) as con:
            drawn = con.execute(
                "select distinct item_id from read_parquet($files, hive_partitioning = false) "
                "where available_at <= $until order by hash(item_id, now()) limit $count",
                {
                    "files": [one_file(Path(file)) for file in files],
                    "until": until,
                    "count": PROBED,
                },
            ).fetchall()
        if not drawn:
            return True
        answer = self.store.get_online_features(
            features=[f"{self.view}:embedding"],
            entity_rows=[{"item_id": item} for (item,) in drawn],
        ).to_dict()
        return None not in answer["embedding"]

    def _target(self) -> str:
        """Identify the store and the view by a hash, so that no password is written."""
        parts = [
            self.store.project,
            self.store.config.registry.path,
            repr(self.store.config.online_store),
            self.view,
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
