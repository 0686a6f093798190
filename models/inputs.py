"""What a line reads beside items, actions and ages: the signs and attributes of its actions.

They are further inputs of the signature `embed`, by name, each [batch, length]: `signs` int32 (1,
0, -1); a number as float32 (NaN where missing); a category as int32: 0 where missing, 1 for one
that the fit did not see, then the fit's categories. In a PAD slot they are 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from models.sequences import Padded
from models.spec import Aggregator, Learned
from transformations.config import Config
from transformations.errors import InputError
from transformations.quoting import quoted

MOST_CATEGORIES = 100
"""The most frequent ones; all others share the code of an unknown one."""
N_KNOWN_CODES = 2


@dataclass(frozen=True)
class Number:
    """Mean and standard deviation of a number, over the actions that the fit saw."""

    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Category:
    """The categories that have a code of their own, the most frequent first."""

    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """The further inputs of one line, with the statistics of its fit.

    Attributes:
        signs: Whether it reads the actions' signs.
        attributes: Those that it reads, in order.
    """

    signs: bool = False
    attributes: Mapping[str, Number | Category] = field(default_factory=dict)

    def shapes(self, length: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return name → (dtype, shape without the batch), in order."""
        named = {"signs": "int32"} if self.signs else {}
        for name, statistics in self.attributes.items():
            named[name] = "float32" if isinstance(statistics, Number) else "int32"
        return {name: (dtype, (length,)) for name, dtype in named.items()}

    def arrays(self, padded: Padded) -> dict[str, NDArray[Any]]:
        """Return them for sequences: name → [members, length]."""
        arrays: dict[str, NDArray[Any]] = {"signs": padded.signs()} if self.signs else {}
        for name, statistics in self.attributes.items():
            if isinstance(statistics, Number):
                arrays[name] = padded.numbers(name)
            else:
                codes, values = padded.categories(name)
                known = {value: code for code, value in enumerate(statistics.values)}
                own = [N_KNOWN_CODES + known.get(value, -1) for value in values]
                arrays[name] = np.array([0, *own], np.int32)[codes]
        return arrays

    def to_json(self) -> dict[str, Any]:
        """Return them for the manifest; the opposite of `of_manifest`."""
        attributes = {name: asdict(statistics) for name, statistics in self.attributes.items()}
        return {"signs": self.signs, "attributes": attributes}

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> "Inputs":
        """Read them from a package's manifest; one without them reads nothing further."""
        given = manifest.get("inputs") or {}
        attributes = {
            name: Category(tuple(kept["values"])) if "values" in kept else Number(**kept)
            for name, kept in given.get("attributes", {}).items()
        }
        return cls(bool(given.get("signs")), attributes)

    def __bool__(self) -> bool:
        return self.signs or bool(self.attributes)


NOTHING = Inputs()


def asked_by(aggregator: Aggregator, config: Config) -> Inputs:
    """Return what a line of the catalogue reads, with statistics of nothing.

    Raises:
        InputError: it asks for an attribute that is not configured, or for a text.
    """
    attributes: dict[str, Number | Category] = {}
    for name in aggregator.attributes if isinstance(aggregator, Learned) else ():
        configured = config.rules.attributes.get(name)
        if configured is None or configured.kind == "text":
            known = [n for n, a in config.rules.attributes.items() if a.kind != "text"]
            raise InputError(
                f"{aggregator} reads the attribute {name!r}; expected a number or a category of "
                f"events.attributes in {config.file.name}: {', '.join(known) or 'there is none'}"
            )
        attributes[name] = Number() if configured.kind == "number" else Category()
    return Inputs(aggregator.reads_signs, attributes)


def measured(
    aggregator: Aggregator, config: Config, con: duckdb.DuckDBPyConnection, activity: str
) -> Inputs:
    """Return what a line reads, with the statistics of the query `activity`."""
    asked = asked_by(aggregator, config)
    attributes: dict[str, Number | Category] = {}
    for name, kind in asked.attributes.items():
        value = f"attributes[{quoted(name)}]"
        if isinstance(kind, Number):
            row = con.execute(f"select avg({value}), stddev_pop({value}) from ({activity})")
            mean, deviation = row.fetchone() or (None, None)
            attributes[name] = Number(mean or 0.0, deviation or 1.0)
        else:
            rows = con.execute(
                f"select {value} as v from ({activity}) where v is not null "
                "group by v order by count(*) desc, v limit $most",
                {"most": MOST_CATEGORIES},
            ).fetchall()
            attributes[name] = Category(tuple(value for (value,) in rows))
    return Inputs(asked.signs, attributes)
