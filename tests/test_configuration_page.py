"""docs/configuration.md shows every key of activity.yaml in an example, and each example loads."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from transformations.config import ROOT, Config, load_config
from transformations.errors import InputError

TEXT = (ROOT / "docs" / "configuration.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
ITEMS = {"items": {"text": ["title"]}}  # the one required key


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field's type names, however deep: also those in a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def keys_of(model: type[BaseModel], path: str = "") -> set[str]:
    """Return the path of every key; `*` stands for a name that the user chooses."""
    found = set()
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        found.add(key)
        for inner in models_in(field.annotation):
            found |= keys_of(inner, f"{key}." if field.annotation is inner else f"{key}.*.")
    return found


def keys_in(raw: Mapping[str, Any], model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the path of every key of an example."""
    for name, value in raw.items():
        key = f"{path}{name}"
        yield key
        fields = {field.alias or own: field for own, field in model.model_fields.items()}
        field = fields.get(name)
        for inner in models_in(field.annotation) if field else []:
            if field and field.annotation is inner:
                yield from keys_in(value, inner, f"{key}.")
            else:
                several = value.values() if isinstance(value, Mapping) else value
                # A sign alone stands for a mapping.
                for one in (one for one in several if isinstance(one, Mapping)):
                    yield from keys_in(one, inner, f"{key}.*.")


def load(text: str, folder: Path) -> Config:
    file = folder / "activity.yaml"
    file.write_text(yaml.safe_dump(ITEMS | yaml.safe_load(text)))
    return load_config(file)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_loads(example: str, tmp_path: Path) -> None:
    load(example, tmp_path)


def test_every_key_is_in_an_example() -> None:
    shown = {key for text in EXAMPLES for key in keys_in(yaml.safe_load(text), Config)}
    assert keys_of(Config) - shown == set()


def test_every_key_is_in_the_table() -> None:
    """By its last name, since the columns of events stand together in one line."""
    keys = keys_of(Config)
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    table = set(re.findall(r"`[.\w]*?(\w+)`", TEXT.split("## Examples")[0]))
    assert {key.rsplit(".", 1)[-1] for key in leaves} - table == set()


def test_keys_are_found_however_deep(tmp_path: Path) -> None:
    """The tests above are worth what `keys_of` finds, and an unknown key does not load."""
    assert {"dim", "events.columns.item_id", "items.embedding", "events.attributes.*.unit"} < (
        keys_of(Config)
    )
    with pytest.raises(InputError, match=r"events\.colums: unknown key"):
        load("events: {colums: {}}", tmp_path)
