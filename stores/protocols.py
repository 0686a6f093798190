"""The protocols of this room: an online store that takes whole batches, and a backend of reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from feast import FeatureView
from feast.repo_config import RepoConfig

from stores.bytes.encode import EncodedBatch
from stores.reading.plan import Fetched


@runtime_checkable
class BulkOnlineStore(Protocol):
    """What `stores.columnar` asks of an online store; any other store gets Feast's rows."""

    def takes_encoded(self, config: RepoConfig) -> bool:
        """Whether `prepare_write` fills every column that this configuration asks for."""

    def sorts_in(self, config: RepoConfig) -> Path | None:
        """Return a folder for sorting by key what is much, None if the order is all one to it."""

    def prepare_write(
        self, config: RepoConfig, table: FeatureView, batch: EncodedBatch
    ) -> Callable[[], None]:
        """Lay out a batch whose keys are distinct; return a function that writes it.

        An older row changes nothing. The engine runs the write in another thread while it lays out
        the next batch; writes run one at a time, in order.
        """


class OnlineReads(Protocol):
    """What `stores.read` asks of a backend, which is made for one plan."""

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """Return the stored bytes of each group's keys, for each of the group's views."""

    async def fetch_async(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """As `fetch`, without blocking the event loop."""

    def close(self) -> None:
        """Close the connections."""

    async def aclose(self) -> None:
        """Close the connections of the event loop."""
