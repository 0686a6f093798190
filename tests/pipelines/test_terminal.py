"""Whatever a user's data hold is shown as it is: no markup, no emoji code, no escape sequence."""

import ast
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from pipelines.progress import plain_table
from pipelines.report import plots, write_page
from pipelines.terminal import Terminal, escape, visible
from transformations.config import ROOT

HOSTILE = [
    "[/]",
    "[bold]x[/]",
    "[/bold]",
    "[red]",
    "[v2]",
    "[link=http://x]y[/link]",
    "[@click=exit]x",
    "a\\[bold]",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\rb",
    "a\x08b",
    "\u202egnp.exe",
    "\u2028",
    "\x00",
    "\x7f",
    "$x^{$",
    "<script>alert(1)</script>&",
    "-->",
    "]]>",
]
SEQUENCE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printed(*what: object) -> str:
    file = io.StringIO()
    for one in what:
        Terminal(file=file, width=200, highlight=False).print(one)
    return file.getvalue()


@pytest.mark.parametrize("data", HOSTILE)
def test_data_are_printed_as_they_are(data: str) -> None:
    table = plain_table(f"Member {data}")
    table.add_column("what")
    table.add_row(data)
    table.add_row(Text(visible(data), "bold"))
    text = printed(f"[green]✓[/] member [bold]{escape(data)}[/] is there", table)
    assert text.count(visible(data)) == 4
    assert f"✓ member {visible(data)} is there" in text
    assert not SEQUENCE.search(text)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_text_is_printed_as_it_is(data: str) -> None:
    line = printed(f"[bold]a[/] {escape(data)}|")
    assert not SEQUENCE.search(line)
    # A backslash before a bracket, or at the end, is what escaping is about.
    if "\\" not in data and "\t" not in data and len(data.splitlines()) == 1:
        assert line == f"a {visible(data)}|\n"


@given(st.text(max_size=30))
def test_no_text_ends_in_an_error_even_where_it_was_not_escaped(data: str) -> None:
    assert not SEQUENCE.search(printed(f"[bold]a[/] {data}"))


def test_a_terminal_gets_the_styles_that_are_ours() -> None:
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=True, color_system="standard", highlight=False)
    terminal.print(f"[green]✓[/] {escape('[red]x')}")
    assert file.getvalue() == "\x1b[32m✓\x1b[0m [red]x\n"


def test_all_commands_print_with_it() -> None:
    """rich's own console and table read markup in whatever they are given."""
    for file in (ROOT / "pipelines").rglob("*.py"):
        if file.name != "terminal.py":
            assert not re.search(r"(?<![\w.])(?:Console|Table)\(", file.read_text()), file


def test_what_is_put_into_a_table_is_not_escaped() -> None:
    """A cell is text as it is: with an escape, an item called `[senior] cook` had a backslash."""
    for file in (ROOT / "pipelines").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            name = isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2]
            if name in ("plain_table", "PlainTable", "add_row", "add_column"):
                within = {one.id for one in ast.walk(call) if isinstance(one, ast.Name)}
                assert "escape" not in within, f"{file}: {ast.unparse(call)}"


@pytest.mark.parametrize("data", HOSTILE)
def test_plots_hold_no_control_character(data: str) -> None:
    svg = plots.bars({data: 3, "b": 2}, data)
    ET.fromstring(svg)
    assert not SEQUENCE.search(svg)
    assert "<script" not in svg


def test_a_template_shows_data_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html.j2").write_text("{% for one in data %}<p>{{ one }}</p>{% endfor %}")
    monkeypatch.setattr("pipelines.report.FOLDER", tmp_path)
    write_page("page.html.j2", {"data": HOSTILE}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not SEQUENCE.search(page)
    assert page.count("<p>") == len(HOSTILE)
    assert "<script" not in page
