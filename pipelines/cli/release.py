"""`activity release`: which fits serve together, which release serves, and taking one back."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, confirm, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, plain_table, working
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from operations.releases import Release, Target

app = typer.Typer()
release = typer.Typer(
    no_args_is_help=True, help="The fits that serve together: promote, roll back, retire, pin."
)
app.add_typer(release, name="release")
console = Terminal()

NumberArgument = Annotated[int, typer.Argument(min=1, help="The release's number.")]
TargetOption = Annotated[
    str | None,
    typer.Option(
        help="[bold]online[/]: the service; [bold]batch[/]: the lists that a run makes. "
        "Default: both."
    ),
]
WhyOption = Annotated[str | None, typer.Option(help="Why; kept in the ledger.")]


@release.command("list", epilog="Example: activity release list")
def list_command(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """Show every release, and which one serves."""
    from operations.releases import releases

    settings = settings_of(config)
    _expect_ledger(settings)
    table = plain_table("Releases")
    for name in ("release", "made (UTC)", "fitted until", "gates", "state"):
        table.add_column(name, overflow="fold")
    for one in releases(settings):
        table.add_row(
            str(one.number),
            _minute(one.made_at),
            _minute(one.fitted_until),
            "" if one.gates is None else (one.refused or "passed"),
            _state(settings, one),
        )
    console.print(table)


@release.command("show", epilog="Example: activity release show 3")
def show_command(
    number: NumberArgument, config: ConfigOption = None, debug: DebugOption = False
) -> None:
    """Show the fits of a release, and when it served."""
    from operations.composition import SOURCE
    from operations.fits import LINE, SPACE
    from operations.rankers import RANKER
    from operations.releases import history, release_of

    settings = settings_of(config)
    one = release_of(settings, number)
    parts = plain_table(f"Release {number}: {_state(settings, one) or 'waits'}")
    for name in ("what", "fits"):
        parts.add_column(name, overflow="fold")
    kinds = {
        "item spaces": SPACE, "aggregators": LINE, "candidate sources": SOURCE, "rankers": RANKER,
    }  # fmt: skip
    for title, kind in kinds.items():
        parts.add_row(title, ", ".join(one.named(kind)) or "none")
    console.print(parts)
    moves = plain_table("Promotions")
    for name in ("when (UTC)", "target", "how", "why"):
        moves.add_column(name, overflow="fold")
    for row in history(settings):
        if row["release"] == number:
            how = "rolled back to" if row["is_rollback"] else "promoted"
            share = "" if row["share"] >= 1 else f", {row['share']:.0%} of the traffic"
            at = row["at"][:19].replace("T", " ")
            moves.add_row(at, row["target"], how + share, row["why"] or "")
    if moves.row_count:
        console.print(moves)


@release.command("promote", epilog="Example: activity release promote 3 --why 'looked at by hand'")
def promote_command(
    number: NumberArgument,
    share: Annotated[
        float,
        typer.Option(
            help="Of the members of the service, at most 0.5: an experiment decides about it. "
            "Again with more: it grows. [bold]1[/]: all."
        ),
    ] = 1.0,
    target: TargetOption = None,
    why: WhyOption = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Let a release serve: services take it over within a second, lists with the next run."""
    from operations.releases import promote

    settings, targets = settings_of(config), _targets(target)
    if share == 1:
        promote(settings, number, why, targets)
        console.print(f"[green]✓[/] release {number} serves: {', '.join(targets)}")
        _tag(settings)
        return
    if target == "batch":
        raise InputError("--share: lists have no share, so expected it without --target batch")
    from pipelines.sharing import begin_share

    _expect_ledger(settings)
    one = begin_share(settings, number, share, why)
    console.print(
        f"[green]✓[/] release {number} answers {one.share:.0%} of the members; as many are the "
        f"control: {escape(one.metric)}. What it says: activity experiment status {one.name}",
        highlight=False,
        soft_wrap=True,
    )
    for guardrail in one.guardrails:
        console.print(f"  guardrail: {escape(str(guardrail))}", highlight=False, soft_wrap=True)
    _tag(settings)


@release.command("rollback", epilog="Example: activity release rollback --why 'fewer applications'")
def rollback_command(
    target: TargetOption = None,
    why: WhyOption = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Take back the last promotion, a share too; again: the one before that."""
    from operations.releases import rollback

    settings = settings_of(config)
    for moved, number in rollback(settings, why, _targets(target)).items():
        console.print(f"[green]✓[/] {moved}: release {number} serves again")
    _tag(settings)


@release.command("retire", epilog="Example: activity release retire 2 --yes")
def retire_command(
    number: NumberArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Publish a release no longer: what no other one names of it goes."""
    settings = settings_of(config)
    _expect_ledger(settings)
    with loading("Feast"):
        import_feast()
        from operations.composition import only_in
        from operations.ledger import Ledger
        from operations.releases import refuse_retiring, retire
        from pipelines.retiring import counted, going, take_down
        from serving import publish

    with Ledger(settings).lock():
        refuse_retiring(settings, number)
        store, what = publish.open_store(settings), going(settings, only_in(settings, [number]))
        with working("counting what goes"):
            table = counted(store, what)
        console.print(table)
        confirm(yes, f"activity release retire {number}")
        with working("removing it"):
            retire(settings, number)
            take_down(settings, store, what)
    console.print(f"[green]✓[/] release {number} is retired; the packages stay")


@release.command("pin", epilog="Example: activity release pin 2 --why 'the search team reads it'")
def pin_command(
    number: NumberArgument,
    why: Annotated[str, typer.Option(help="Who reads its fits; kept in the ledger.")],
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Go on publishing a release however old it is."""
    from operations.releases import pin

    pin(settings_of(config), number, why)
    console.print(f"[green]✓[/] release {number} stays until: activity release unpin {number}")


@release.command("unpin", epilog="Example: activity release unpin 2")
def unpin_command(
    number: NumberArgument, config: ConfigOption = None, debug: DebugOption = False
) -> None:
    """Let a release retire again when two newer ones are there."""
    from operations.releases import unpin

    unpin(settings_of(config), number)
    console.print(f"[green]✓[/] release {number} retires by itself again")


def _tag(settings: Config) -> None:
    """Tell MLflow, after all that serves has been told."""
    from pipelines.tagging import tag_releases

    tag_releases(settings)


def _state(settings: Config, one: "Release") -> str:
    from operations.releases import TARGETS, serving
    from operations.traffic import traffic

    shared = traffic(settings).shared
    serves = [target for target in TARGETS if serving(settings, target) == one.number]
    said = [f"serves: {', '.join(serves)}"] if serves else []
    if shared is not None and shared.release == one.number:
        said.append(f"answers {shared.share:.0%} of the members: {shared.name}")
    if one.retired_at is not None:
        said.append(f"retired {_minute(one.retired_at)}")
    if one.pinned_at is not None:
        said.append(f"pinned: {one.pinned_why}")
    return "; ".join(said)


def _minute(at: "datetime | None") -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"


def _targets(named: str | None) -> "Sequence[Target]":
    from operations.releases import TARGETS

    found = [target for target in TARGETS if named in (None, target)]
    if not found:
        raise InputError(f"--target: expected one of {', '.join(TARGETS)}, got {named!r}")
    return found


def _expect_ledger(settings: Config) -> None:
    from operations.ledger import ledger_exists

    if not ledger_exists(settings):
        raise InputError(f"nothing was run yet into {settings.data}; first: activity run")
