"""Fixtures for every test module."""

# Before Feast, which sets PROMETHEUS_MULTIPROC_DIR: metrics would then be shared by every test of a
# process, whichever registry they are in.
import prometheus_client as _in_memory
import pytest

from tests.worlds import plain_feast
from tests.worlds.servers import _redis_process, postgres_url, redis_server
from tests.worlds.spark import spark_cluster

__all__ = ["_in_memory", "_redis_process", "postgres_url", "redis_server", "spark_cluster"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; a trap's test has to fail on plain Feast.

    A worker that takes a long file last works on it alone. Traps are what the plug-ins mend, under
    ACTIVITY_PLAIN_FEAST=1.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if not plain_feast.switched_on():
        return
    for item in items:
        for trap in item.iter_markers("mended_trap"):
            strict = trap.kwargs.get("strict", True)  # False where it takes a race to fall in
            item.add_marker(pytest.mark.xfail(strict=strict, reason=trap.args[0]))
