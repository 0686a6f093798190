"""`activity recommend`: a member and its list; `activity skew`: what was served, and training."""

from typing import Annotated

import typer

from pipelines.cli.options import ConfigOption, DebugOption, read_duration, settings_of
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, plain_table, short, working
from pipelines.terminal import Terminal, escape
from transformations import clock
from transformations.config import Config
from transformations.errors import InputError, RunFailedError

app = typer.Typer()
console = Terminal()


@app.command("recommend", epilog="Example: activity recommend 42 --n 10")
def recommend_command(
    member: Annotated[
        str | None,
        typer.Argument(
            help="A member's id; also one that nobody knows. Default: one who did much.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option(min=1, max=1_000, help="Items of the list.")] = 10,
    actions: Annotated[int, typer.Option(min=0, help="Last actions shown.")] = 5,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show a member's last actions, then its recommendations: scores, sources and reasons.

    It reads what is online, as the service does, but waits as long as it takes.
    """
    settings = settings_of(config)
    with loading("Feast"):
        import_feast()
        from models.lines import candidate_lines
        from operations.composition import fits_of
        from operations.traffic import traffic
        from serving.publish import open_store
        from serving.recommend.asked import Request
        from serving.recommend.parts import open_parts
        from serving.recommend.recommend import Recommender
        from serving.request.sequences import checked_ids

    if member is None:
        member = _someone(settings)
    if not candidate_lines(settings):
        raise InputError(
            f"expected CANDIDATES in {settings.catalogue}, such as CANDIDATES = "
            "(Popular(version=1),), got none"
        )
    release, arm = traffic(settings).of(*checked_ids(settings.rules, "member", [member]))
    served = None if release is None else fits_of(settings, release)
    parts = open_parts(settings, open_store(settings), served=served)
    with Recommender(settings, parts) as recommender:
        did = recommender.actions(member)
        answer = recommender.now(Request(member, n))
    last = plain_table(f"Member {member}: the last of {len(did)} actions known")
    last.expand = True
    for name in ("when", "action", "item"):
        last.add_column(name, no_wrap=True)
    last.add_column("what", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in did[:actions]:
        cells = (f"{row['event_timestamp']:%Y-%m-%d %H:%M}", row["action"], str(row["item_id"]))
        last.add_row(*cells, row["title"])
    console.print(last)
    made_by = "the sources' votes" if answer.path == "votes" else answer.ranker
    if answer.path == "popular":
        made_by = "popularity"
    shown = plain_table(f"Recommendations, ordered by {made_by}")
    shown.expand = True
    for name in ("score", "item"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("what, and why", ratio=1, no_wrap=True, overflow="ellipsis")
    shown.add_column("sources: rank", no_wrap=True)
    for item in answer.items:
        sources = [f"{source}: {rank + 1}" for source, rank in item.sources.items()] or [item.by]
        score = "" if item.score is None else f"{item.score:.3g}"
        listed = (score, str(item.item_id), item.title, sources[0])
        shown.add_row(*listed)
        reason = item.reason
        why = "" if reason is None else f"  like {reason.item_id} ({reason.action}) {reason.title}"
        for number in range(max(len(sources) - 1, 1 if why else 0)):
            more = sources[number + 1] if number + 1 < len(sources) else ""
            shown.add_row("", "", why if number == 0 else "", more)
    console.print(shown)
    if arm is not None:
        console.print(f"By release {release}; in {escape(arm)}.", highlight=False, soft_wrap=True)
    console.print(
        "The page with members, lists and neighbours: activity serve, then http://localhost:6570/",
        highlight=False,
    )


def _someone(config: Config) -> str:
    """Return a member of the newest snapshot, whom `activity run --tour` shows too."""
    from operations.ledger import Ledger, ledger_exists
    from pipelines.cli.show import someone
    from transformations.duck import connect

    as_of = Ledger(config).newest_published() if ledger_exists(config) else None
    if as_of is None:
        raise InputError(f"nothing was run yet into {config.data}; first: activity run")
    with connect(config) as con:
        member = someone(config, con, as_of)
    if member is None:
        raise InputError("no member acted in the newest window; name one: activity recommend 42")
    return str(member)


@app.command("skew", epilog="Example: activity skew --since 7d --bound 1e-3")
def skew_command(
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d.")] = "24h",
    bound: Annotated[
        float, typer.Option(min=0, help="Mean difference of a column from which this fails.")
    ] = 1e-3,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare what rankers were served with to a training join for the same moments.

    The service logs a share of it (recommend.log_features). Numbers are compared by their relative
    difference, vectors by 1 - cosine, categories by being equal. Ends with 1 above the bound.
    """
    settings, now = settings_of(config), clock.now()
    first = now - read_duration(since)
    with loading("Feast"):
        import_feast()
        from pipelines.ranking.skew import above, skews
        from serving.publish import open_store
        from transformations.duck import connect

    with working("joining"), connect(settings) as con:
        found = skews(settings, open_store(settings), con, first, now)
    if not found:
        raise InputError(
            f"expected logged features of the last {since} in "
            f"{short(settings.layout.logged_features)}, found none; activity serve logs the share "
            "recommend.log_features of the answers that a ranker orders"
        )
    table = plain_table(f"Served and joined features of {found[0].pairs:,} pairs")
    for name in ("ranker", "column"):
        table.add_column(name, overflow="fold")
    for name in ("mean", "worst"):
        table.add_column(name, justify="right", no_wrap=True)
    for skew in found:
        figures = (f"{skew.mean:.2g}", f"{skew.worst:.2g}")
        table.add_row(skew.ranker, skew.column, *figures)
    console.print(table)
    if wrong := above(found, bound):
        raise RunFailedError(
            f"{len(wrong)} of {len(found)} columns differ by more than {bound:g} in the mean, most "
            f"of all {wrong[0].column} of {wrong[0].ranker}: what was served is not what training "
            "would read. Look at the publication of its view at that time: activity freshness"
        )
