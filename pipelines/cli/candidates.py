"""`activity candidates`: what each candidate source brings for a member."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, plain_table
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError

if TYPE_CHECKING:
    from serving.recommend.candidates import Found

app = typer.Typer()
console = Terminal()


@app.command("candidates", epilog="Example: activity candidates 42 --count 5")
def candidates_command(
    member: Annotated[str, typer.Argument(help="A member's id; also one that nobody knows.")],
    count: Annotated[int, typer.Option(min=1, help="Items shown per source.")] = 10,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show which items each candidate source of the catalogue brings for a member, the best first.

    It reads what is online: what the member did last, the lists of the last run, the newest vector.
    """
    settings = settings_of(config)
    with loading("Feast"):
        import_feast()
        from models.lines import candidate_lines
        from serving.publish import open_store
        from serving.recommend.candidates import Candidates
        from stores.read import ReadError

    if not candidate_lines(settings):
        raise InputError(
            f"expected CANDIDATES in {settings.catalogue}, such as CANDIDATES = "
            "(Popular(version=1),), got none"
        )
    candidates = Candidates(settings, open_store(settings))
    try:
        found = candidates.of(member)
        liked = candidates.member(member)
    except ReadError as error:
        raise InputError(str(error)) from None
    finally:
        candidates.close()
    shown = [each.items[:count].tolist() for each in found]
    titles = _titles(settings, {item for items in shown for item in items})
    table = plain_table(f"Member {escape(member)}: candidates, {len(liked.items)} actions known")
    table.expand = True
    for each in found:
        table.add_column(escape(f"{each.source.kind} {each.source}"), ratio=1, overflow="ellipsis")
        table.columns[-1].no_wrap = True
    for rank in range(max(map(len, shown), default=0)):
        columns = zip(found, shown, strict=True)
        table.add_row(*(_cell(each, items, titles, rank) for each, items in columns))
    console.print(table)
    for each in found:
        if each.why_none:
            console.print(f"{each.source}: {each.why_none}", highlight=False, markup=False)


def _cell(found: "Found", items: list[object], titles: dict[object, str], rank: int) -> str:
    if rank >= len(items):
        return ""
    text = f"{found.scores[rank]:.3g}  {items[rank]} {titles.get(items[rank], '')}"
    return escape(text.rstrip())


def _titles(config: Config, items: set[object]) -> dict[object, str]:
    """Return the beginning of items' texts."""
    from transformations.duck import connect, parquet

    staged = config.layout.staged_items
    if not (items and staged.exists() and config.items.has_text):
        return {}
    with connect(config) as con:
        rows = con.execute(
            "select item_id, arg_max(text, available_at) as text "
            f"from {parquet([staged])} where list_contains($items, item_id) group by item_id",
            {"items": sorted(items, key=str)},
        ).fetchall()
    return {item: " ".join((text or "").split())[:80] for item, text in rows}
