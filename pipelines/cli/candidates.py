"""`activity candidates`: what each candidate source brings for a member."""

from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, plain_table
from pipelines.terminal import Terminal
from transformations.config import Config
from transformations.errors import InputError

app = typer.Typer()
console = Terminal()


@app.command("candidates", epilog="Example: activity candidates 42 --count 5")
def candidates_command(
    member: Annotated[str, typer.Argument(help="A member's id; also one that nobody knows.")],
    count: Annotated[int, typer.Option(min=1, help="Items shown per source.")] = 5,
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
        from stores.ids import IdError, ids_of

    if not candidate_lines(settings):
        raise InputError(
            f"expected CANDIDATES in {settings.catalogue}, such as CANDIDATES = "
            "(Popular(version=1),), got none"
        )
    try:
        (wanted,) = ids_of([member], settings.member_id_type, "member_id")
    except IdError as error:
        raise InputError(str(error)) from None
    candidates = Candidates(settings, open_store(settings))
    found, liked = candidates.of(wanted), candidates.member(wanted)
    candidates.close()
    shown = [each.items[:count].tolist() for each in found]
    titles = _titles(settings, {item for items in shown for item in items})
    table = plain_table(f"Member {member}: candidates, {len(liked.items)} actions known")
    table.expand = True
    for name in ("source", "score", "item"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", ratio=1, no_wrap=True, overflow="ellipsis")
    for each, items in zip(found, shown, strict=True):
        table.add_row(f"{each.source.kind}: {each.source.reads}", "", "", "")
        for score, item in zip(each.scores.tolist(), items, strict=False):
            table.add_row("", f"{score:.3g}", str(item), titles.get(item, ""))
    console.print(table)
    for each in found:
        if each.why_none:
            console.print(f"{each.source}: {each.why_none}", highlight=False, markup=False)


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
