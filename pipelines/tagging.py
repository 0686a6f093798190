"""The ledger's facts about releases as tags in MLflow, for whoever looks for them there."""

import logging

from models import registry
from operations.fits import LINE, Fits, key_of
from operations.releases import TARGETS, releases, serving
from operations.traffic import traffic
from transformations.config import Config
from transformations.secrets import redact

logger = logging.getLogger(__name__)


def tag_releases(config: Config) -> int:
    """Write which releases each registered aggregator is in, and what serves it.

    Returns of how many versions something had changed.

    MLflow decides nothing: where it does not answer, that is logged.
    """
    try:
        known = registry.versions(config)
        return registry.tag(config, known, facts(config)) if known else 0
    except Exception as error:
        logger.warning("MLflow does not know yet what serves: %s", redact(str(error)))
        return 0


def facts(config: Config) -> dict[str, dict[str, str]]:
    """Return weights → the tags `releases`, as "3, 4", and `serves`: targets, a share."""
    serves: dict[int, list[str]] = {}
    for target in TARGETS:
        if (number := serving(config, target)) is not None:
            serves.setdefault(number, []).append(target)
    shared = traffic(config).shared
    if shared is not None and shared.release is not None:
        said = f"{shared.share:.0%} of the members"
        serves.setdefault(shared.release, []).append(said)
    lines = {key_of(line): line for line in Fits(config).other_fits(())}
    found: dict[str, tuple[list[str], list[str]]] = {}
    for release in reversed(releases(config)):
        for key in release.fits:
            line = lines.get(key) if key[0] == LINE and release.is_living else None
            if line is None or not line.is_packaged(config):
                continue
            numbers, by = found.setdefault(line.manifest(config)["weights_sha256"], ([], []))
            numbers.append(str(release.number))
            by += serves.get(release.number, [])
    return {
        weights: {"releases": ", ".join(numbers), "serves": ", ".join(by)}
        for weights, (numbers, by) in found.items()
    }
