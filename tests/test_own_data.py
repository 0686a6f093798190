"""Two people's data in one clone: two workspaces that know nothing of each other."""

import pytest

from tests.worlds.clone import AVERAGE_ONLY, Clone
from tests.worlds.workspace import write


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("own [v2]*"))  # a name, not a pattern
    for name, member, item, first in (
        ("games", "{}", "g-{}", "user_id"),
        ("wines", "w{}", "{}", "customer"),
    ):
        source = clone.root.parent / name
        write(source, member, item, first)
        sources = ("--events", str(source / "events.csv"), "--items", str(source / "items.csv"))
        clone.activity("init", name, *sources)
        folder = clone.root / "workspaces" / name
        (folder / "catalog.py").write_text(AVERAGE_ONLY)
        settings = (folder / "activity.yaml").read_text()
        (folder / "activity.yaml").write_text(settings + "\ndim: 2\n")
        clone.activity("run", "--as-of", "last", "--config", f"workspaces/{name}")
    return clone


def counts(clone: Clone, name: str, member: object, item: object) -> dict[str, int]:
    answer = clone.ranker(name, member, item)
    return {name: value for name, value in answer.items() if name.startswith("n_")}


def test_each_serves_its_own(clone: Clone) -> None:
    games, wines = (counts(clone, *asked) for asked in (("games", 3, "g-1"), ("wines", "w3", 1)))
    assert games["n_play"] + games["n_dismiss"] == games["n_actions"] == 13
    assert wines == games
    assert counts(clone, "games", 99, "g-1")["n_actions"] == 0


def test_nothing_of_one_lies_in_the_other_or_in_the_root(clone: Clone) -> None:
    assert not (clone.root / "data" / "activity").exists()
    for name in ("games", "wines"):
        folder = clone.root / "workspaces" / name
        for file in ("online.db", "registry.db", "activity", "member_sequences", "artifacts"):
            assert (folder / "data" / file).exists(), file


def test_other_sources_under_one_roof_are_refused(clone: Clone) -> None:
    folder = clone.root / "workspaces" / "games"
    settings = (folder / "activity.yaml").read_text()
    other = settings.replace("games/events.csv", "wines/events.csv")
    other = other.replace("user_id", "customer").replace("member_id_type: int64", "")
    (folder / "activity.yaml").write_text(other)
    before = sorted((folder / "data").rglob("*.parquet"))
    said = clone.activity("run", "--as-of", "last", "--config", "workspaces/games", fails=2)
    assert "activity reset" in said
    assert sorted((folder / "data").rglob("*.parquet")) == before
    (folder / "activity.yaml").write_text(settings)
    assert counts(clone, "games", 3, "g-1")["n_actions"] == 13


def test_a_reset_begins_again_and_leaves_the_other_alone(clone: Clone) -> None:
    config = ("--config", "workspaces/games")
    assert "activity reset --yes" in clone.activity("reset", *config, fails=2)
    clone.activity("reset", "--yes", *config)
    folder = clone.root / "workspaces" / "games" / "data"
    assert not (folder / "activity").exists()
    assert "nothing was run yet" in " ".join(clone.activity("status", *config, fails=2).split())
    # Going back in time is no wall any more.
    clone.activity("run", "--as-of", "2026-03-05", *config)
    assert 0 < counts(clone, "games", 3, "g-1")["n_actions"] < 13
    assert counts(clone, "wines", "w3", 1)["n_actions"] == 13
