"""Fixtures for every test module."""

from tests.servers import _redis_process, postgres_url, redis_server

__all__ = ["_redis_process", "postgres_url", "redis_server"]
