"""Whether an online store may forget what it held: a Redis that evicts keys when it is full."""

from typing import Any

import redis
from feast import FeatureStore

from stores.kinds import kind_of


def eviction(store: FeatureStore) -> str | None:
    """Return what the online store does with keys when its memory is full, None if it keeps them.

    With volatile policies only keys that expire are evicted: rows of a store with
    `key_ttl_seconds`. A server that does not say is taken for one that keeps them.

    >>> eviction(store)  # doctest: +SKIP
    'maxmemory-policy allkeys-lru, maxmemory 100.00M, 1,234 keys evicted so far'
    """
    online: Any = store._get_provider().online_store
    kind = kind_of(online)
    if kind is None or kind.name != "redis":
        return None
    settings = store.config.online_store
    try:
        info = online._get_client(settings).info("all")
    except redis.exceptions.RedisError:
        return None
    # A cluster answers by node.
    nodes = [one for one in info.values() if isinstance(one, dict) and "maxmemory" in one] or [info]
    for node in nodes:
        policy = str(node.get("maxmemory_policy", "noeviction"))
        expires = getattr(settings, "key_ttl_seconds", None)
        may = policy.startswith("allkeys") or (policy.startswith("volatile") and expires)
        if may and node.get("maxmemory"):
            return (
                f"maxmemory-policy {policy}, maxmemory {node['maxmemory_human']}, "
                f"{node.get('evicted_keys', 0):,} keys evicted so far"
            )
    return None
