"""What is planted in the demo, plainly: a fault of a source, and a ranker that learned nonsense."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.lines import ranker_lines
from operations.fits import Fits
from pipelines.progress import Stages
from pipelines.ranking.train import examples_of, train_ranker
from transformations.config import Config

Spoilt = Callable[[Path, datetime], None]


def saved_instead_of_applied(source: Path, day: datetime) -> None:
    """Record each application of a day as a SAVE, as after a change of the tracking."""
    file = source / "events" / f"{day:%Y-%m-%d}.parquet"
    rows = pq.read_table(file)
    is_apply = pc.equal(rows["action"], "APPLY")
    place = rows.schema.get_field_index("action")
    pq.write_table(
        rows.set_column(place, "action", pc.if_else(is_apply, "SAVE", rows["action"])), file
    )


def learn_the_opposite(config: Config, until: datetime, stages: Stages) -> str:
    """Fit the ranker that answers on labels turned around: liked is disliked; return its name."""
    line, *_ = ranker_lines(config)
    own = config.in_space(Fits(config).space)
    examples = examples_of(own, line, until, stages)
    wrong = replace(
        examples,
        train=replace(examples.train, targets=1 - examples.train.targets),
        validation=replace(examples.validation, targets=1 - examples.validation.targets),
    )
    made, _, _ = train_ranker(config, line, until, stages, made=wrong)
    return str(made)
