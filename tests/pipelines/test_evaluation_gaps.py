"""An action that one period lacks leaves a line in the report; too few labels are refused."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from models.spec import Cnn, GeometricDecay
from models.training.recipe import Recipe
from operations.ledger import Ledger
from pipelines.daily import stage_events
from pipelines.datasets.simulate import Size, simulate
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.labels import positive_times
from pipelines.evaluation.protocol import LIVE, Protocol, Split
from pipelines.progress import Stages
from pipelines.report import write_report
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition_files

END = datetime(2026, 3, 1, tzinfo=UTC)
PROTOCOL = Protocol(
    freshness=(LIVE,),
    seeds=1,
    resamples=20,
    l2=(1e-4,),
    decays=(0.8,),
    popular_days=(7,),
    half_lives=(None,),
    without=("ease", "als", "sasrec"),
)
LINES = (
    GeometricDecay(version=1, decay=0.8),
    Cnn(
        name="tiny",
        version=1,
        filters=4,
        store="int8",
        recipe=Recipe(epochs=1, negatives=16, validation=timedelta(days=5)),
    ),
)
ACTIONS = {
    "APPLY": "positive",
    "SAVE": "positive",  # in the test period only
    "STAR": "positive",  # in the train period only
    "LIKE": "positive",  # never
    "DISMISS": "negative",  # not in the test period
}


def market(folder: Path, **settings: Any) -> Config:
    """Simulate a market and stage its events."""
    simulate(folder / "simulated", Size(members=200, jobs=100, days=40), end=END)
    config = Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "dim": 8,
            "length": 6,
            "actions": ACTIONS,
            "events": {"source": str(folder / "simulated" / "events")},
            "items": {
                "source": str(folder / "simulated" / "items.parquet"),
                "text": ["title"],
                "available_at": "posted_at",
            },
        }
        | settings
    )
    with connect(config) as con:
        stage_events(config, con, END, stages(config))
    return config


def stages(config: Config) -> Stages:
    ledger = Ledger(config)
    return Stages(Console(quiet=True), ledger, ledger.start("evaluate", None))


def rename(action: str, time: datetime, split: Split) -> str:
    in_test = time >= split.train_until
    if action == "SAVE" and not in_test:
        return "STAR" if split.fit_until <= time < split.train_until else "APPLY"
    return "APPLY" if action == "DISMISS" and in_test else action


def test_actions_that_a_period_lacks_are_said_in_the_report(tmp_path: Path) -> None:
    config = market(tmp_path, min_positives=1)
    with connect(config) as con:
        times = positive_times(config, con, ())
    split = Split.of(times, PROTOCOL.test, PROTOCOL.fold_in)
    for file in partition_files(config.layout.activity):
        table = pq.ParquetFile(file).read()
        frame: pd.DataFrame = table.select(["action", "event_timestamp"]).to_pandas()
        renamed = [rename(*row, split) for row in frame.itertuples(index=False)]
        index = table.schema.get_field_index("action")
        pq.write_table(table.set_column(index, "action", pa.array(renamed)), file)

    result = json.loads(evaluate(config, stages(config), PROTOCOL, "test", LINES).read_text())

    assert result["gaps"] == [
        "No label of the train period is a SAVE: no ranker learned from it.",
        "No label of the train period is a LIKE: no ranker learned from it.",
        "No label of the test period is a STAR: nothing was measured on it.",
        "No label of the test period is a LIKE: nothing was measured on it.",
        "No label of the test period is a DISMISS: nothing was measured on it.",
        "AUC, dismissed: the test period has no label to measure it on; nothing is promised of it.",
    ]
    # A line that is kept as int8 has no other numbers to compare with.
    stored = {(row["variant"], row["dtype"]): row["bytes_per_member"] for row in result["storage"]}
    assert stored == {
        ("decay", "float32"): 5 * 8 * 4,
        ("decay", "float16"): 5 * 8 * 2,
        ("decay", "int8"): 5 * (8 + 4),
        ("tiny", "int8"): 8 + 4,
    }
    promises = {promise["name"]: promise for promise in result["promises"]}
    assert "auc_dismiss" not in promises
    # One vector instead of five.
    assert promises["bytes"]["passed"]
    assert "at most 1/5 of 160, got 12" in promises["bytes"]["sentence"]
    assert "labels permuted" not in [control["name"] for control in result["controls"]]
    assert any("positive) of" in sentence for sentence in result["protocol"])
    assert result["n_trials"] > 0
    assert any("Every choice is made on" in sentence for sentence in result["protocol"])

    quick = replace(PROTOCOL, tuned=False)
    untuned = json.loads(evaluate(config, stages(config), quick, "test", LINES).read_text())
    assert (untuned["n_trials"], untuned["decay_grid"]) == (0, [])
    assert any("Nothing was chosen on" in sentence for sentence in untuned["protocol"])
    assert untuned["baseline"] == "decay"
    assert [one["name"] for one in untuned["variants"]] == [
        one["name"] for one in result["variants"]
    ]
    page = write_report(result, tmp_path).read_text()
    assert "No label of the train period is a LIKE" in page


def test_too_few_positive_labels_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config = market(tmp_path, min_positives=100_000)
    with pytest.raises(
        InputError,
        match=r"at least 100,000 positive labels in the train period, got [\d,]+ labels "
        r"\([\d,]+ positive\) of [\d,]+ members; .*lower min_positives in activity.yaml",
    ):
        evaluate(config, stages(config), PROTOCOL, "test", LINES)
    assert not config.layout.evaluation.joinpath("artifacts").exists()
