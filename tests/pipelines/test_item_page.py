"""The page of item spaces: what it shows of small tables, and how it looks in a browser."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.items.similarity import comparable
from pipelines.cli import app as cli
from pipelines.nearest import Near
from pipelines.report.items import (
    Example,
    ItemSpaces,
    MappedSpace,
    Relation,
    item_spaces,
    laid_out,
    write_items,
)
from tests.worlds.browser import Browser, running_browser
from tests.worlds.workspace import END, Workspace
from transformations.duck import connect, parquet
from transformations.errors import InputError
from transformations.layout import partition_files

# In `a` the genres are apart; in `b` even and odd items are, and g-7 has no vector there.
ITEMS = [
    ("g-0", "Zero", "War|Drama", (1, 0), (1, 0), 9),
    ("g-1", "One", "War", (2, 0), (0, 1), 9),
    ("g-2", "Two", "War", (3, 0), (2, 0), 9),
    ("g-3", "Three", "Drama|War", (0, 1), (0, 2), 9),
    ("g-4", "Four", "Drama", (0, 2), (3, 0), 9),
    ("g-5", "Five", "", (0, 3), (0, 3), 2),
    ("g-6", "Six", "", (1, 3), (1, 3), 1),
    ("g-7", "Seven", "War", (1, 1), None, 0),
]
PLAYED = ["g-0", "g-0", "g-0", "g-1", "g-1", "g-2", "g-3", "g-4", "g-7", "g-7", "g-7", "g-7"]
ENCODERS = (
    'Given(name="a", version=1, column="a")',
    'Given(name="b", version=1, column="b", similarity="dot")',
)
HOSTILE = "</title></svg></style><script>window.hacked = 1</script><img src=x onerror=hacked=1> $x^"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("spaces"))
    workspace.setting(
        "text: [title]",
        "text: [title], categories: [genres], embedding: [a, b], available_at: since",
    )
    rows = [
        f'{item},{title},{genres},"{[*a]}","{[*b] if b else ""}",'
        f"{END - days * timedelta(days=1):%Y-%m-%d %H:%M:%S}"
        for item, title, genres, a, b, days in ITEMS
    ]
    source = workspace.root / "source"
    (source / "items.csv").write_text("\n".join(["product,title,genres,a,b,since", *rows]) + "\n")
    events = [
        f"{n},{item},play,{END - timedelta(hours=n + 1):%Y-%m-%d %H:%M:%S}"
        for n, item in enumerate(PLAYED)
    ]
    header = "user_id,product,event_type,ts"
    (source / "events.csv").write_text("\n".join([header, *events]) + "\n")
    workspace.lines("Average(version=1)", encoders=ENCODERS)
    workspace.run(END)
    return workspace


def test_what_is_shown_of_the_spaces(made: Workspace) -> None:
    with connect(made.config) as con:
        found = item_spaces(made.config, con, END)
        assert item_spaces(made.config, con, END).categories == found.categories
    spaces = [(x.name, x.kind, x.similarity, x.items, x.fit_before) for x in found.spaces]
    assert spaces == [
        ("a_v1", "given", "cosine", 8, None),
        ("b_v1", "given", "dot", 7, None),
    ]
    # g-7 was acted on most, but only one space has it. Of g-5 and g-6, without actions, g-6 is new.
    assert [(each.item, each.why, each.text, each.marked) for each in found.examples] == [
        ("g-0", "most acted on, 3 actions", "Zero", True),
        ("g-2", "in the middle, 1 action", "Two", True),
        ("g-6", "new, 0 actions", "Six", True),
    ]
    assert found.coloured_by == "genres"
    # First the examples; the first of several genres counts; without one, `other`.
    assert found.items[:3] == ["g-0", "g-2", "g-6"]
    assert found.categories[:3] == ["War", "War", "other"]
    assert sorted(found.categories) == ["Drama", "Drama", *["War"] * 3, "other", "other"]
    by_cosine, by_dot = found.examples[0].near
    assert [near.item for near in by_cosine] == ["g-1", "g-2", "g-7", "g-6", "g-3"]
    assert [(near.item, near.similarity) for near in by_dot[:3]] == [
        ("g-4", 3),
        ("g-2", 2),
        ("g-6", 1),
    ]
    # Each of seven items has all six others among its ten nearest: 3 · 2 + 2 · 1 of 5 · 6 pairs
    # have a genre in common. Each member acted on one item.
    assert [relation.by_chance for relation in found.relations] == pytest.approx([8 / 30, 0])
    for space in found.spaces:
        assert space.measures == pytest.approx([8 / 30, 0])


def test_a_sample_is_mapped_and_the_examples_may_be_chosen(made: Workspace) -> None:
    with connect(made.config) as con:
        found = item_spaces(made.config, con, END, items=["g-7", "g-5"], size=6)
        # What all spaces have is on the maps, and comes first.
        assert [(each.item, each.why, each.marked) for each in found.examples] == [
            ("g-5", "chosen", True),
            ("g-7", "chosen", False),
        ]
        assert found.examples[1].near[1] == []
        assert (found.marked, len(found.categories)) == (1, 6)
        points = [space.points for space in found.spaces]
        assert [None if each is None else each.shape for each in points] == [(6, 2)] * 2
        with pytest.raises(InputError, match=r"a vector in one of a_v1, b_v1, got 'g-none'"):
            item_spaces(made.config, con, END, items=["g-none"])


def test_what_is_not_known_yet_is_not_shown(made: Workspace) -> None:
    with connect(made.config) as con:
        found = item_spaces(made.config, con, END - timedelta(days=5))
    assert [space.items for space in found.spaces] == [5, 5]


@given(
    seed=st.integers(0, 999),
    n=st.integers(2, 16),
    asked=st.lists(st.booleans(), min_size=16, max_size=16),
)
def test_a_relation_is_averaged_over_the_ten_nearest(seed: int, n: int, asked: list[bool]) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 3)).astype(np.float32)
    values = rng.random((n, n)).astype(np.float32)
    chosen = np.array([True, *asked[1:n]])
    relation = Relation("", "", values, chosen)
    near, others = [], []
    for item in np.flatnonzero(chosen):
        rest = [other for other in range(n) if other != item]
        ranked = sorted(rest, key=lambda other: -float(vectors[item] @ vectors[other]))
        near.append(np.mean([values[item, other] for other in ranked[:10]]))
        others.append(np.mean([values[item, other] for other in rest]))
    assert relation.over_nearest(vectors) == pytest.approx(np.mean(near), abs=1e-5)
    assert relation.by_chance == pytest.approx(np.mean(others), abs=1e-5)


def test_members_in_common_are_a_share_of_an_items_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.run(END)
    with connect(workspace.config) as con:
        found = item_spaces(workspace.config, con, END)
        files = partition_files(workspace.config.layout.activity)
        acted = con.execute(f"select item_id, member_id from {parquet(files)}").fetchall()
    (relation,) = found.relations
    assert (found.coloured_by, relation.name) == (None, "of its members")
    items = sorted({item for item, _ in acted})
    members = {item: {member for own, member in acted if own == item} for item in items}
    shares = [
        len(members[one] & members[other]) / len(members[one])
        for one in items
        for other in items
        if one != other
    ]
    assert 0 < relation.by_chance < 1.01
    assert relation.by_chance == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_groups_that_are_alike_are_apart_on_the_map(similarity: str) -> None:
    rng = np.random.default_rng(4)
    group = np.arange(60) % 3
    vectors = (4 * np.eye(3, 8)[group] + 0.2 * rng.normal(size=(60, 8))).astype(np.float32)
    points = laid_out(comparable(vectors, similarity), seed=1)  # type: ignore[arg-type]
    again = laid_out(comparable(vectors, similarity), seed=1)  # type: ignore[arg-type]
    assert points is not None
    assert again is not None
    np.testing.assert_array_equal(points, again)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()


def test_what_cannot_be_laid_out_is_not() -> None:
    assert laid_out(np.ones((4, 3), np.float32), seed=0) is None
    assert laid_out(np.ones((40, 3), np.float32), seed=0) is None
    lines = laid_out(np.arange(40, dtype=np.float32)[:, None], seed=0)
    assert lines is not None
    assert np.isfinite(lines).all()


def shown(text: str) -> ItemSpaces:
    """Return two spaces with maps and one without, and texts that may be anything."""
    points, vectors = np.random.default_rng(0).normal(size=(40, 2)), np.zeros((40, 2), np.float32)
    near = [Near(f"id-{n}", f"{text} {n}" if n else "", 0.9 - 0.1 * n) for n in range(5)]
    return ItemSpaces(
        as_of=datetime(2026, 3, 1, tzinfo=UTC),
        spaces=[
            MappedSpace("text_v1", "tfidf_svd", "cosine", 4_000, END, vectors, points, [0.4]),
            MappedSpace("factors_v1", "factors", "dot", 3_000, END, vectors, -points, [0.3]),
            MappedSpace("given_v1", "given", "cosine", 3, None, vectors, None, [0.0]),
        ],
        examples=[
            Example(f"id-{n}", f"example {n}", text * 9, n < 2, [near, near[::-1], []])
            for n in range(3)
        ],
        items=[f"id-{n}" for n in range(40)],
        categories=[text, "Drama", "other", "War"] * 10,
        coloured_by=text,
        relations=[Relation("of its category", text, np.eye(40), np.ones(40, bool))],
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("text", ["Data engineer", HOSTILE, "x" * 300])
def test_the_page_in_a_browser(
    browser: Browser, tmp_path: Path, text: str, width: int, scheme: str
) -> None:
    file = tmp_path / "items.html"
    write_items(shown(text), text, file)
    page = browser.page()
    page.open(file, width, scheme=scheme)
    assert page.complaints == []
    assert page.requests == [file.as_uri()]
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('h1').textContent") == f"{text}: item spaces"
    assert page.evaluate("document.querySelectorAll('#maps svg.plot use').length") == 2 * (40 + 2)
    tabs = "[...document.querySelectorAll('article.member')].map(e => e.offsetHeight > 0)"
    assert page.evaluate(tabs) == [True, False, False]
    # What is drawn on a filled badge can be told from it, in both schemes.
    badge = page.evaluate(
        "[...document.querySelectorAll('#maps svg.plot text')].map(e => getComputedStyle(e).fill)"
    )
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert len(badge) == 4
    assert ink not in badge


def test_the_command_writes_the_page(
    made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.report.items.laid_out", lambda vectors, _: vectors[:, :2])
    call = ["items", "map", "--config", str(made.root)]
    done = CliRunner().invoke(cli.app, call)
    assert done.exit_code == 0, done.output
    page = made.config.layout.item_page.read_text()
    assert "most acted on, 3 actions" in page
    other = tmp_path / "mine.html"
    done = CliRunner().invoke(cli.app, [*call, "--item", "g-5", "--html", str(other)])
    assert done.exit_code == 0, done.output
    assert "1: chosen" in other.read_text()
    done = CliRunner().invoke(cli.app, [*call, "--html", "mine.txt"])
    assert isinstance(done.exception, InputError)
    assert "ends in .html, got mine.txt" in str(done.exception)


def test_a_workspace_without_vectors_is_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    with connect(workspace.config) as con, pytest.raises(InputError, match="first: activity run"):
        item_spaces(workspace.config, con, END)
