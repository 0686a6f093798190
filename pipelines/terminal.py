"""What is printed: no user's data are ever markup, an emoji code or an escape sequence.

`print` and `input` know a few tags, those of TAGS, and nothing else; data in a message are escaped,
so that not even these are found in them. A cell or a title of a table is text as it is. Control
characters, with which a terminal would be steered, are shown as pictures.
"""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from transformations.visible import visible

__all__ = ["PlainTable", "Terminal", "escape", "visible"]

TAGS = ("bold red", "bold", "dim", "green", "yellow", "red")
TAG = re.compile(rf"(?<!\\)\[({'|'.join(TAGS)}|/)\]")
ESCAPED = re.compile(r"(\\+)(?=\[)")


class Terminal(Console):
    """rich's console with few tags and no control characters but its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text, styled by its tags where it may have some."""
        text = visible(text)  # rich drops some control characters without a word
        if settings.get("markup") is False:
            return super().render_str(text, **settings)
        parts, styles = Text(), [""]
        for index, part in enumerate(TAG.split(text)):
            if index % 2 == 0:
                parts.append(ESCAPED.sub(lambda it: it[1][: len(it[1]) // 2], part), styles[-1])
            elif part != "/":
                styles.append(part)
            elif len(styles) > 1:
                styles.pop()
            else:
                parts.append("[/]")
        plain = super().render_str(parts.plain, **(settings | {"markup": False}))
        plain.spans[:0] = parts.spans
        return plain

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what is printed, without control characters of the data."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


class PlainTable(Table):
    """rich's table; what is put in is text, not markup."""

    def __init__(self, *headers: Any, title: str | None = None, **settings: Any) -> None:
        named = None if title is None else Text(visible(title), style="table.title")
        super().__init__(*headers, title=named, **settings)

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row; a cell with a style is a rich Text."""
        plain = (Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*plain, **settings)
