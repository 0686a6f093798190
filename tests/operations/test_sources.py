"""What the data were made from is noted, and two data sets never become one."""

from pathlib import Path

import pytest

from operations.sources import note_sources, sources_of
from tests.worlds.events import AS_OF, DAY, Event, configure, write_activity
from transformations.errors import InputError

ONE = Event(1, 1, "APPLY", AS_OF - DAY)


def test_other_sources_are_refused_with_both_ways_on(tmp_path: Path) -> None:
    first = configure(tmp_path, events={"source": str(tmp_path / "first.parquet")})
    note_sources(first)
    write_activity(first, [ONE])
    note_sources(first)
    other = configure(tmp_path, events={"source": str(tmp_path / "other.parquet")})
    before = first.layout.sources.read_text()
    with pytest.raises(InputError) as refusal:
        note_sources(other)
    assert "first.parquet" in str(refusal.value)
    assert "other.parquet" in str(refusal.value)
    assert "activity init" in str(refusal.value)
    assert "activity reset" in str(refusal.value)
    assert first.layout.sources.read_text() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"items": {"source": "elsewhere.csv", "text": ["title"]}},
        {"member_id_type": "string"},
        {"item_id_type": "string"},
    ],
)
def test_so_are_other_items_and_other_types_of_ids(tmp_path: Path, changed: dict) -> None:
    config = configure(tmp_path)
    note_sources(config)
    write_activity(config, [ONE])
    with pytest.raises(InputError, match=f"{next(iter(changed))}"):
        note_sources(configure(tmp_path, **changed))


def test_an_added_action_or_column_is_no_other_source(tmp_path: Path) -> None:
    config = configure(tmp_path)
    note_sources(config)
    write_activity(config, [ONE])
    actions = {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative", "LIKE": "positive"}
    note_sources(configure(tmp_path, actions=actions, events={"columns": {"ingested_at": "x"}}))


def test_while_nothing_is_staged_nothing_is_decided(tmp_path: Path) -> None:
    note_sources(configure(tmp_path, events={"source": "first.parquet"}))
    other = configure(tmp_path, events={"source": "other.parquet"})
    note_sources(other)
    write_activity(other, [ONE])
    note_sources(other)


def test_data_of_an_older_version_get_their_note(tmp_path: Path) -> None:
    config = configure(tmp_path)
    write_activity(config, [ONE])
    note_sources(config)
    assert config.layout.sources.exists()


def test_no_password_is_noted(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me:hush@host/shop?password=hush"
    config = configure(tmp_path, events={"source": url, "table": "clicks"})
    assert sources_of(config)["events.source"] == "postgresql+psycopg://host/shop clicks"
