"""The releases that may answer next, opened before a pointer names them: moving it is a swap."""

import logging
from collections.abc import Mapping
from typing import Protocol

from feast import FeatureStore

from operations.composition import fits_of
from operations.releases import standby
from operations.traffic import Pointer, Traffic
from serving.recommend.parts import Parts, open_parts, state_of
from serving.request.vectors import RequestTime
from transformations.config import Config

logger = logging.getLogger(__name__)


class Standby(Protocol):
    """What a recommender asks about releases: WorkspaceStandby, or a stand-in."""

    def traffic(self) -> Traffic:
        """Return which release has to answer whom; it is asked several times per second."""
        ...

    def opened(self, kept: Mapping[int | None, Parts], beside: Parts) -> dict[int | None, Parts]:
        """Return the parts of the releases that may answer next.

        Args:
            kept: Those that are open: what has not changed is returned as it is.
            beside: Of the release that answers.
        """
        ...


class WorkspaceStandby:
    """The newest releases of a workspace, what has a share of the traffic, what a rollback goes to.

    Args:
        request_time: As `open_parts` takes it.
    """

    def __init__(
        self, config: Config, store: FeatureStore, request_time: RequestTime | None = None
    ) -> None:
        self._config, self._store, self._request_time = config, store, request_time
        self._pointer = Pointer(config)

    def traffic(self) -> Traffic:
        """Return what the ledger says of the online service."""
        return self._pointer.traffic()

    def opened(self, kept: Mapping[int | None, Parts], beside: Parts) -> dict[int | None, Parts]:
        """Open them; one that cannot be opened is logged, and left out."""
        found: dict[int | None, Parts] = {}
        for release in standby(self._config):
            try:
                served = fits_of(self._config, release)
                before = kept.get(release)
                if before is None or before.state != state_of(self._config, served):
                    self._store.refresh_registry()
                    before = open_parts(
                        self._config, self._store, self._request_time, served, beside
                    )
                found[release] = before
            except Exception as error:
                logger.warning("release %d is not kept ready: %s", release, error)
        return found
