"""Item vectors between two snapshots: what is new is encoded, what was done is folded in."""

from operations.fits import Fits, embedded_lines, fit_until
from pipelines.daily import serve_beside, stage_events, stage_the_items
from pipelines.fitting import fit_items
from pipelines.progress import Stages
from serving import publish
from transformations import clock
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError


def refresh_items(config: Config, stages: Stages) -> int:
    """Read both sources, bring every item space up to now, and publish its new vectors.

    Nothing is fitted. The stream and the service take the new vectors over by themselves. Returns
    how many rows were written online.

    Raises:
        InputError: no run has made an item space yet.
    """
    now = clock.now().replace(microsecond=0)
    fits = Fits(config)
    lines = [line for line in embedded_lines(config) if line.is_packaged(config)]
    spaces = [own.space for own, _ in fits.all_spaces(lines) if fits.is_made(own.space)]
    if not spaces:
        raise InputError(
            "expected an item space that a run has made, found none; first: activity run"
        )
    with connect(config) as con:
        stage_events(config, con, now, stages)
        stage_the_items(config, con, now, stages)
        lines = [line for line in lines if line.config_of(config).space in spaces]
        config = config.in_space(fits.space)
        fit_items(config, con, now, fit_until(config, now), lines, stages, spaces)
    with stages.stage("publish") as stage:
        store = publish.open_store(config)
        owns = [config.in_space(space) for space in spaces]
        stage.rows_out = publish.publish_items(owns, store, now)
        stage.note = ", ".join(own.item_view for own in owns)
        written = stage.rows_out
    serve_beside(config, now, stages, only_new=True)
    return written
