"""A small workspace with CSV sources, whose runs are made in the process of the test."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from feast import FeatureStore
from rich.console import Console

from operations.ledger import Ledger
from pipelines.backfill import run_backfill
from pipelines.daily import run_daily, stage_events, stage_the_items
from pipelines.fitting import new_fit
from pipelines.progress import Stages
from serving import publish
from transformations.config import Config, load_config
from transformations.duck import connect

END = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
SETTINGS = """
events:
  source: source/events.csv
  columns: {member_id: user_id, item_id: product, action: event_type, event_timestamp: ts}
item_id_type: string
actions: {play: positive, dismiss: negative}
items: {source: source/items.csv, item_id: product, text: [title]}
dim: 2
fit_holdback: 3d
release: {promote: automatic}
"""
STORE = """
project: fits
provider: local
registry: {registry_type: sql, path: sqlite:///data/registry.db}
offline_store: {type: stores.duckdb_asof.DuckDBAsofOfflineStore}
online_store: {type: stores.sqlite.ColumnarSqliteOnlineStore, path: data/online.db}
batch_engine: {type: stores.columnar.ColumnarComputeEngine}
entity_key_serialization_version: 3
"""


def catalogue(
    *lines: str,
    encoders: Sequence[str] = (),
    candidates: Sequence[str] = (),
    rankers: Sequence[str] = (),
) -> str:
    imports = "from datetime import timedelta\nfrom models.items.spec import *\n"
    imports += "from models.candidates.spec import *\nfrom models.rankers.lines import *\n"
    imports += "from models.spec import *\nfrom models.training.recipe import Recipe\n\n"
    spaces = f"ITEM_ENCODERS = ({', '.join(encoders)},)\n" if encoders else ""
    sources = f"CANDIDATES = ({', '.join(candidates)},)\n" if candidates else ""
    order = f"RANKERS = ({', '.join(rankers)},)\n" if rankers else ""
    return f"{imports}{spaces}AGGREGATORS = ({', '.join(lines)},)\n{sources}{order}"


AVERAGE, DECAY = "Average(version=1)", "GeometricDecay(version=1, decay=0.5, stream=True)"


def write(folder: Path, member: str, item: str, first: str) -> None:
    """Write events and items as somebody might have them: other names, CSV."""
    words = [f"{color} {kind}" for color in ("red", "blue", "green") for kind in ("fish", "bird")]
    rows = [
        f"{member.format(n % 7)},{item.format(n % 6)},{('play', 'dismiss')[n % 5 == 0]},"
        f"{END - timedelta(hours=5 * n + 1):%Y-%m-%d %H:%M:%S}"
        for n in range(90)
    ]
    folder.mkdir()
    (folder / "events.csv").write_text("\n".join([f"{first},product,event_type,ts", *rows]) + "\n")
    items = [f"{item.format(n)},{word}" for n, word in enumerate(words)]
    (folder / "items.csv").write_text("\n".join(["product,title", *items]) + "\n")


class Workspace:
    """A folder with sources, settings and a catalogue; runs are made in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        write(root / "source", "{}", "g-{}", "user_id")
        (root / "activity.yaml").write_text(SETTINGS)
        (root / "feature_store.yaml").write_text(STORE)
        self.lines(AVERAGE)
        self.said = ""

    @property
    def config(self) -> Config:
        return load_config(self.root)

    @property
    def store(self) -> FeatureStore:
        return publish.open_store(self.config)

    def lines(
        self,
        *lines: str,
        encoders: Sequence[str] = (),
        candidates: Sequence[str] = (),
        rankers: Sequence[str] = (),
    ) -> None:
        text = catalogue(*lines, encoders=encoders, candidates=candidates, rankers=rankers)
        (self.root / "catalog.py").write_text(text)

    def setting(self, old: str, new: str) -> None:
        text = (self.root / "activity.yaml").read_text()
        assert old in text
        (self.root / "activity.yaml").write_text(text.replace(old, new))

    def do(self, command: str, work: Callable[[Stages], object]) -> None:
        said = StringIO()
        ledger = Ledger(self.config)
        try:
            with ledger.lock(), ledger.run(command, None) as run_id:
                work(Stages(Console(file=said, width=200), ledger, run_id))
        finally:
            self.said = said.getvalue()

    def run(self, as_of: datetime | None = None) -> None:
        self.do("run", lambda stages: run_daily(self.config, as_of, stages))

    def backfill(self, *as_ofs: datetime) -> None:
        self.do("backfill", lambda stages: run_backfill(self.config, as_ofs, stages))

    def fit(self, until: datetime, items: str | None = None) -> None:
        def work(stages: Stages) -> None:
            with connect(self.config) as con:
                stage_events(self.config, con, END, stages)
                stage_the_items(self.config, con, END, stages)
                new_fit(self.config, con, END, until, stages, items)

        self.do("fit", work)

    def online(self, service: str) -> dict[str, object]:
        store = self.store
        answer = store.get_online_features(
            features=store.get_feature_service(service),
            entity_rows=[{"member_id": 3, "item_id": "g-1"}],
        ).to_dict()
        return {name: value for name, (value,) in answer.items()}

    def services(self) -> list[str]:
        return sorted(service.name for service in self.store.list_feature_services())
