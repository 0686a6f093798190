"""`activity reset`: start again. `activity rebuild`: write the activity in other periods."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, confirm, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, megabytes, number, plain_table, short, working
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.engine_settings import MOST_BUCKETS
from transformations.layout import Period

if TYPE_CHECKING:
    from feast import FeatureStore

app = typer.Typer()
console = Terminal()


@app.command("reset", epilog="Example: activity reset --yes")
def reset_command(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Remove what runs made, online rows included; sources and the model registry stay."""
    settings = settings_of(config)

    with loading("Feast"):
        import_feast()
        from operations.ledger import Ledger
        from serving import publish

        store = publish.open_store(settings)
    with Ledger(settings).lock():
        folders = [folder for folder in settings.layout.made if folder.exists()]
        with working("counting what is there"):
            online = publish.what_online(settings, store)
            sizes = [megabytes(folder) for folder in folders]
        table = plain_table("To be removed")
        table.add_column("what")
        table.add_column("how much", justify="right")
        for what, count in online.items():
            table.add_row(what, number(count))
        for folder, size in zip(folders, sizes, strict=True):
            table.add_row(short(folder), f"{size:,.1f} MB")
        table.add_row("ledger and notes of runs", "")
        console.print(table)
        confirm(yes, "activity reset")
        with working("removing it"):
            remove_all(settings, store)
    console.print("[green]✓[/] removed; `activity run` begins again from the sources")


@app.command("rebuild", epilog="Example: activity rebuild --period month")
def rebuild_command(
    period: Annotated[
        Period | None, typer.Option(help="Default: the shortest that fills a file.")
    ] = None,
    buckets: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_BUCKETS, help="Default: layout.buckets."),
    ] = None,
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged", help="Only take damaged files away, so that what makes them can again."
        ),
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the staged activity in other periods or buckets, without reading the sources again."""
    settings = settings_of(config)

    from operations.ledger import Ledger
    from transformations.archive import give_up_damaged
    from transformations.rebuild import rebuild
    from transformations.table_files import take_away

    if damaged:
        with Ledger(settings).lock(), working("reading the tables' files"):
            taken = take_away(settings)
            given_up = give_up_damaged(settings)
        for file in taken:
            where = file.path.relative_to(settings.data)
            console.print(f"[yellow]•[/] {where}: {file.mend}", highlight=False)
        for found in given_up:
            where = found.file.relative_to(settings.data)
            console.print(f"[yellow]•[/] {where}: a replay lacks what it held", highlight=False)
        console.print(
            f"[green]✓[/] {number(len(taken))} damaged files moved to "
            f"{short(settings.layout.state / 'damaged')}"
        )
        return
    with Ledger(settings).lock(), working("writing the activity"):
        chosen, files, rows = rebuild(settings, period, buckets)
    divided = buckets or settings.layout.buckets
    per = chosen if divided == 1 else f"{chosen} and bucket"
    console.print(
        f"[green]✓[/] {number(rows)} actions in {number(files)} files, one per {escape(per)}",
        highlight=False,
    )
    if divided != settings.layout.buckets:
        console.print(
            f"[yellow]•[/] now write `layout: {{buckets: {divided}}}` into "
            f"{escape(settings.file.name)}; until then runs refuse the activity",
            highlight=False,
        )


def remove_all(settings: Config, store: "FeatureStore") -> None:
    """Remove what runs made, online rows first and the ledger last."""
    from serving import publish

    publish.remove_online(settings, store)
    for folder in settings.layout.made:
        if folder.exists():
            # A link (the evaluation's to the activity) goes; what it points to is not followed.
            shutil.rmtree(folder)
    # Last: a reset that was killed before here can be run again.
    for note in _notes(settings):
        shutil.rmtree(note) if note.is_dir() else note.unlink(missing_ok=True)


def _notes(settings: Config) -> list[Path]:
    """Return what runs noted, the ledger last; whose the workspace is, and the lock, stay.

    So do the tombstones: the sources would bring forgotten members back.
    """
    layout = settings.layout
    kept = {layout.workspace, layout.state / "lock", layout.ledger}
    kept |= {layout.tombstones, layout.forget_key}
    return [*(note for note in layout.state.iterdir() if note not in kept), layout.ledger]
