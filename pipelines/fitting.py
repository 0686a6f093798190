"""What a run fits before it embeds: the item space, packages, weights; and what of it may change.

A fit that nothing was published or backfilled from is made again when a setting changed or when it
saw more than the as_of. One that was used is frozen, and refused instead (`operations.fits`).
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from duckdb import DuckDBPyConnection as Connection

from models import packaging
from models.items.build import build_items
from models.items.protocol import GoesOn
from models.items.saved import Beginning, differences, fitted_until, folder_of, reads_activity
from models.items.spec import Given
from models.lines import by_space, catalogue_lines, encoder_lines, encoder_of
from models.spec import Aggregator, Learned, Packaged
from operations.fits import SPACE, Fits, adopt, note_fits, say_kept, seen_until, stands_still
from pipelines.drift.watch import say_paused
from pipelines.incremental import Begun, begin_space, note, note_followers
from pipelines.progress import Stage, Stages
from pipelines.terminal import escape
from pipelines.training import train_line
from transformations.config import Config
from transformations.duck import TableReport
from transformations.errors import InputError, RunFailedError, TooFewError
from transformations.names import Space


def lines_to_serve(
    config: Config, aggregators: Sequence[Aggregator] | None, stages: Stages
) -> tuple[list[Aggregator], list[Aggregator]]:
    """Return the fits that get new rows, and those that only stay as they are.

    The catalogue's lines come first, then the kept fits; lines that a caller gave come alone. What
    is kept, and until when, is said.
    """
    adopt(config)
    fits = Fits(config)
    current = fits.bind(catalogue_lines(config) if aggregators is None else aggregators)
    kept = fits.kept(current) if aggregators is None else []
    still = [line for line in kept if stands_still(line, config)]
    moving = [line for line in kept if line not in still]
    for said in say_kept(moving, still):
        stages.console.print(said, highlight=False, soft_wrap=True)
    return [*current, *moving], still


def fit_items(
    config: Config,
    con: Connection,
    as_of: datetime,
    until: datetime,
    lines: Sequence[Aggregator],
    stages: Stages,
    spaces: Iterable[Space] = (),
    paused: bool = False,
) -> list[Space]:
    """Encode the new items of every space that these lines read; fit a space that has no encoder.

    Args:
        as_of: The oldest timestamp that is built now; a fit that saw more and was never used is
            made again.
        until: A new fit sees nothing at or after it.
        spaces: Spaces that are kept up even where no line reads them.
        paused: Whether drift pauses fitting: a space that would be fitted counts as missing.

    Returns the spaces that could not be fitted yet: there is too little, which is said.

    Raises:
        InputError: a space in use was fitted with other settings, or there is too little for the
            first of them, which everything reads that names none.
        RunFailedError: fitting is paused, and the first space would be fitted.
    """
    fits = Fits(config)
    present = set(fits.spaces.values())
    read = {own.space: (own, of_space) for own, of_space in by_space(config, lines)}
    read |= {space: (config.in_space(space), []) for space in spaces if space not in read}
    missing = []
    for space, (own, of_space) in read.items():
        if paused and not fits.is_used(space) and _would_be_fitted(own, as_of):
            if space == fits.space:
                raise RunFailedError(
                    f"drift pauses fitting, so {space} is not fitted, and everything reads it; the "
                    "last snapshot goes on being served. See: activity drift"
                )
            say_paused(stages, [space])
            missing.append(space)
            continue
        if not fits.is_used(space):
            _fit_again(own, as_of, of_space, fits, stages)
        elif space not in present and differences(own):
            continue  # other text or categories are staged by now: its new items have no vector
        begun = begin_space(own, until) if fitted_until(own) is None else None
        if begun is not None:
            note(config, begun, stages)
        with stages.stage("items") as stage:
            stage.note = str(space)
            try:
                table = _built(own, con, as_of, until, begun, stages, stage)
            except TooFewError as error:
                if space == fits.space:
                    raise
                said = f"[yellow]•[/] {space} is not fitted yet: {escape(str(error))}"
                stages.console.print(said, highlight=False, soft_wrap=True)
                missing.append(space)
                stage.note += ", not fitted yet"
            else:
                stage.rows_in, stage.rows_out = table.rows_in, table.rows_out
                stage.refused = table.refused
    return missing


def _built(
    config: Config,
    con: Connection,
    as_of: datetime,
    until: datetime,
    begun: Begun[GoesOn] | None,
    stages: Stages,
    stage: Stage,
) -> TableReport:
    """Build the items of a space from where its fit begins; where that fails, in full."""
    if begun is not None and begun.parent is not None and begun.since is not None:
        beginning = Beginning(begun.parent, begun.since, begun.notes())
        try:
            return build_items(config, con, as_of, until, stage.update, beginning)
        except InputError as error:
            note(config, begun.in_full(str(error)), stages)
    return build_items(config, con, as_of, until, stage.update)


def fold_items(
    config: Config,
    con: Connection,
    as_ofs: Sequence[datetime],
    lines: Sequence[Aggregator],
    stages: Stages,
) -> None:
    """Fold what members did by each of these timestamps into the spaces that read activity.

    The others have all their vectors: they depend on nothing but the items.
    """
    spaces = [(own, fitted_until(own)) for own, _ in by_space(config, lines) if reads_activity(own)]
    if not spaces:
        return
    with stages.stage("items", total=len(spaces) * len(as_ofs), unit="times") as stage:
        stage.rows_in = stage.rows_out = 0
        for own, seen in spaces:
            for as_of in sorted(as_ofs):
                if seen is not None and as_of >= seen:
                    table = build_items(own, con, as_of, seen)
                    stage.rows_in += table.rows_in
                    stage.rows_out += table.rows_out
                stage.advance(1)
        stage.note = f"folded in: {', '.join(str(own.space) for own, _ in spaces)}"


def prepare(
    config: Config, as_of: datetime, lines: Sequence[Aggregator], stages: Stages
) -> list[Learned]:
    """Package the lines that need no training; return those that are to be trained.

    A package that was never used and differs from the catalogue is made again.

    Raises:
        InputError: a package in use differs from the catalogue.
    """
    fits = Fits(config)
    for line in lines:
        if isinstance(line, Packaged):
            continue
        why = packaging.differences(line, config)
        if line.is_packaged(config):
            seen = line.manifest(config)["trained_until"]
            if seen is not None and datetime.fromisoformat(seen) > as_of:
                why.append(f"  trained_until: {seen}, after {as_of:%Y-%m-%d}")
        if why and not fits.is_used(line):
            _say_again(stages, str(line), why)
            forget(config, line)
    untrained = [
        line for line in lines if isinstance(line, Learned) and not line.is_packaged(config)
    ]
    for line in lines:
        registered = packaging.to_fetch(line, config)
        if registered is not None:
            with stages.stage("copy model") as stage:
                packaging.package(line, config)
                stage.note = "{} version {} from the model registry".format(*registered)
    ready = [line for line in lines if line not in untrained]
    if ready:
        with stages.stage("package", total=len(ready), unit="lines") as stage:
            for line in ready:
                packaging.package(line, config)
                stage.advance(1)
            stage.note = ", ".join(map(str, ready))
    return untrained


def new_fit(
    config: Config,
    con: Connection,
    as_of: datetime,
    until: datetime,
    stages: Stages,
    encoder: str | None = None,
) -> list[Aggregator]:
    """Make a new fit of the item spaces and of every line, beside those that are in use.

    They become the present ones when all of it is made. Vectors that a table holds are fitted
    elsewhere: then the lines get a new fit in the same space. Where a present fit was never used,
    it is made again in its place.

    Args:
        as_of: Names the part of the item vectors.
        until: The fit sees nothing at or after it.
        encoder: Only this encoder of the catalogue, and the lines that read its space.

    Returns the lines as their new fits.
    """
    adopt(config)
    fits = Fits(config)
    present, spaces = fits.spaces, fits.spaces
    first = next(iter(present))
    if encoder is not None and encoder not in present:
        raise InputError(
            f"--items: expected one of {', '.join(present)}, as ITEM_ENCODERS of "
            f"{config.catalogue} names them, got {encoder!r}"
        )
    lines = [
        line
        for line in catalogue_lines(config)
        if encoder is None or (line.items or first) == encoder
    ]
    for made_by in encoder_lines(config):
        name, space = str(made_by), present[str(made_by)]
        if encoder in (None, name) and made_by.encoder is not None and fits.is_used(space):
            next_one = fits.next_fit(SPACE, space.encoder, space.version)
            spaces = spaces | {name: replace(space, fit=next_one)}
    made = [
        fits.bind([line], spaces, as_next=True)[0] if fits.is_used(before) else before
        for line, before in zip(lines, fits.bind(lines, spaces), strict=True)
        # A formula in the same space would be the same numbers under another name.
        if isinstance(line, Learned)
        or (
            spaces[line.items or first] != present[line.items or first]
            and not isinstance(line, Packaged)
        )
    ]
    fitted = [
        spaces[str(line)]
        for line in encoder_lines(config)
        if encoder in (None, str(line)) and line.encoder is not None
    ]
    for space in fitted:  # what a killed fit left
        own = config.in_space(space)
        forget_space(own, [line for line in made if line.config_of(config).space == space])
    missing = fit_items(config, con, as_of, until, made, stages, fitted)
    made = [line for line in made if line.config_of(config).space not in missing]
    for line in made:
        forget(config, line)
    for line in prepare(config, as_of, made, stages):
        train_line(config, con, line, until, stages)
    note_followers(config, made)
    note_fits(config, made, used=False, spaces=set(fitted) - set(missing))
    return made


def forget(config: Config, line: Aggregator) -> None:
    """Remove a fit that was never used: its package, and rows that no run published."""
    shutil.rmtree(line.artifact(config), ignore_errors=True)
    shutil.rmtree(config.layout.embeddings(line.view), ignore_errors=True)


def forget_space(config: Config, lines: Sequence[Aggregator]) -> None:
    """Remove the space of `config`, never used, and the fits of lines that learned in it."""
    for line in lines:
        if not isinstance(line, Packaged):
            forget(config, line)
    for folder in (
        config.items_dir,
        config.layout.item_table(config.space),
        folder_of(config),  # last: while it is there, a killed run begins here again
    ):
        shutil.rmtree(folder, ignore_errors=True)


def refuse_future(config: Config, lines: Sequence[Aggregator], as_of: datetime) -> None:
    """Raise InputError where a fit in use saw what happened at or after `as_of`."""
    fits = Fits(config)
    frozen = {
        str(line): seen_until(line, config)
        for line in lines
        if line.is_packaged(config) and (isinstance(line, Packaged) or fits.is_used(line))
    }
    for space in fits.spaces.values():
        if fits.is_used(space):
            frozen[f"the item encoder {space}"] = fitted_until(config.in_space(space))
    for what, seen in frozen.items():
        if seen is not None and as_of < seen:
            raise InputError(
                f"{what} was fitted on what was known before {seen:%Y-%m-%d %H:%M} UTC, so a "
                f"snapshot of {as_of:%Y-%m-%d %H:%M} would see the future, and rows made by it are "
                f"in use. For an earlier fit beside it: activity fit --until {as_of:%Y-%m-%d}. To "
                "start again without it: activity reset"
            )


def _fit_again(
    config: Config, as_of: datetime, lines: Sequence[Aggregator], fits: Fits, stages: Stages
) -> None:
    """Remove an unused fit of a space that no longer is what the configuration asks for."""
    seen = fitted_until(config)
    why = differences(config)
    if seen is not None and seen > as_of:
        why.append(f"  fitted on what was known before {seen:%Y-%m-%d}, after {as_of:%Y-%m-%d}")
    if why:
        _say_again(stages, str(config.space), why)
        forget_space(config, [line for line in lines if not fits.is_used(line)])


def _would_be_fitted(config: Config, as_of: datetime) -> bool:
    """Whether a run would fit the space of `config`, which nothing used yet."""
    if isinstance(encoder_of(config, config.space), Given):
        return False
    seen = fitted_until(config)
    return seen is None or seen > as_of or bool(differences(config))


def _say_again(stages: Stages, what: str, why: Sequence[str]) -> None:
    reasons = "\n".join(why)
    stages.console.print(
        f"{what} is made again; nothing made by it was used, and it differs:\n{reasons}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
