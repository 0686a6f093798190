"""Fixtures for every test module."""

# Before Feast, which sets PROMETHEUS_MULTIPROC_DIR: metrics would then be shared by every test of a
# process, whichever registry they are in.
import prometheus_client as _in_memory

from tests.servers import _redis_process, postgres_url, redis_server

__all__ = ["_in_memory", "_redis_process", "postgres_url", "redis_server"]
