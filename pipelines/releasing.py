"""From what is published to a release that serves: noted, judged, promoted; older ones retire."""

from datetime import datetime

from models.lines import candidate_lines
from operations.composition import note_release
from operations.drift import standing
from operations.ledger import Ledger
from operations.releases import TARGETS, Release, history, promote, releases, serving
from operations.traffic import traffic
from pipelines.progress import Stages
from pipelines.ranking.precomputed import precompute
from pipelines.retiring import retire_older
from pipelines.sharing import begin_share, may_serve_all
from pipelines.tagging import tag_releases
from pipelines.terminal import escape
from transformations.config import Config
from transformations.errors import InputError


def release_what_is_published(
    config: Config, stages: Stages, as_of: datetime | None = None
) -> None:
    """Note a release where new fits are published, let it serve if it may, retire older ones.

    What a killed run published is noted by the next. The lists of members are made by the release
    that is about to serve, so that both come together.

    Args:
        as_of: Make members' lists as of this snapshot; None: a run does that later.
    """
    try:
        made = note_release(config)
    except InputError as error:
        _say(stages, "[yellow]•[/]", str(error))
    else:
        if made is not None:
            _say(stages, "[green]✓[/]", f"{made} is made: {', '.join(made.named('line'))}")
    judge_newest(config, stages)
    shipped, new = may_serve_all(config), to_promote(config, stages)
    in_part = new is not None and config.release.share < 1 and serving(config) is not None
    due = shipped if in_part or new is None else new
    if as_of is not None and candidate_lines(config):
        precompute(config, as_of, stages, due)
    how = f"new, and release.promote is {config.release.promote}"
    if due is not None:
        why = "its experiment says ship" if due == shipped else how if due > 1 else "the first"
        promote(config, due, why)
        _say(
            stages,
            "[green]✓[/]",
            f"release {due} serves; to take it back: activity release rollback",
        )
    elif in_part and new is not None:
        one = begin_share(config, new, config.release.share, how)
        _say(
            stages,
            "[green]✓[/]",
            f"release {new} answers {one.share:.0%} of the members; what it says: activity "
            f"experiment status {one.name}",
        )
    retire_older(config, stages)
    tag_releases(config)


def judge_newest(config: Config, stages: Stages) -> None:
    """Let the gates judge the newest release, where `release.promote` asks them and it may come.

    What they could not judge yet, or refused for what a machine did, the next run judges again; not
    what they let pass, and not what ranks worse: judged day after day, either would turn by chance.
    """
    newest = _newest_unserved(config)
    if config.release.promote != "gated" or newest is None or serving(config) is None:
        return
    if newest.passed:
        return
    if newest.fails("quality"):
        again = f"to judge it again: activity gate --release {newest.number}"
        _say(stages, "[red]•[/]", f"{newest} stays refused: {newest.refused}; {again}")
        return
    from pipelines.gates.release import judge  # TensorFlow, where there is a release to judge

    for verdict in judge(config, newest.number, stages):
        if verdict.passed is False or verdict.waits:
            mark = "[red]•[/]" if verdict.passed is False else "[yellow]•[/]"
            what = "is refused" if verdict.passed is False else "waits"
            _say(stages, mark, f"{newest} {what}: {verdict.gate}: {verdict.said}")


def _newest_unserved(config: Config) -> Release | None:
    """Return the newest release, unless it served already."""
    living = [one for one in releases(config) if one.is_living]
    if not living or any(row["release"] == living[0].number for row in history(config)):
        return None
    return living[0]


def to_promote(config: Config, stages: Stages) -> int | None:
    """Return the release that is to serve by itself now, all or some: the newest that never did.

    Where nothing serves yet it does in any case; later ones where `release.promote` is automatic,
    or gated and every gate let it. One that a gate refuses never does, and neither does one that
    was taken back. While another has a share of the members, or a stop stands, it waits.
    """
    newest = _newest_unserved(config)
    if newest is None or newest.refused:
        return None
    shared = traffic(config).shared
    if serving(config) is not None and (shared is not None or standing(Ledger(config))):
        why = f"release {shared.release} has a share" if shared else "a stop stands: activity drift"
        _say(stages, "[yellow]•[/]", f"{newest} waits: {why}")
        return None
    nothing_serves = all(serving(config, target) is None for target in TARGETS)
    judged = newest.gates is not None and not newest.gates.get("waits")
    how = config.release.promote
    is_due = nothing_serves or how == "automatic" or (how == "gated" and judged)
    return newest.number if is_due else None


def _say(stages: Stages, mark: str, said: str) -> None:
    stages.console.print(f"{mark} {escape(said)}", highlight=False, soft_wrap=True)
