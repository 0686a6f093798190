"""Items' features that are kept for some seconds, against a reader that counts."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.recommend.kept_items import KeptItems
from stores.read import Features, Reader


class Store:
    """A store whose rows change with every version; an item below 0 has none."""

    def __init__(self) -> None:
        self.version, self.asked = 0, []

    def read(self, ids: Mapping[str, Any]) -> Features:
        items = list(ids["item_id"])
        self.asked += items
        there = np.array([item >= 0 for item in items], bool)
        plain = np.array([max(item, 0) + 100 * self.version for item in items], np.float64)
        vectors = np.repeat(plain[:, None], 3, axis=1).astype(np.float32)
        words = np.array([f"w{item}" if item >= 0 else None for item in items], object)
        arrays = {"number": plain * there, "vector": vectors * there[:, None], "word": words}
        return Features(arrays, dict.fromkeys(arrays, there))


def kept_of(store: Store, clock: list[float], most: int = 1_000) -> KeptItems:
    return KeptItems(cast(Reader, store), 5.0, most, lambda: clock[0])


STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(-2, 12), max_size=8, unique=True),
        st.sampled_from([0.0, 1.0, 4.9, 6.0]),
        st.booleans(),
    ),
    max_size=12,
)


@given(STEPS, st.sampled_from([9, 1_000]))
def test_what_is_returned_was_in_the_store_within_the_time(steps, most):
    store, clock = Store(), [0.0]
    kept = kept_of(store, clock, most)
    changed = [(0.0, 0)]
    for items, later, changes in steps:
        clock[0] += later
        if changes:
            store.version += 1
            changed.append((clock[0], store.version))
        found = kept.read(items)
        possible = {v for at, v in changed if at > clock[0] - 5.0} | {
            max(v for at, v in changed if at <= clock[0] - 5.0) if clock[0] >= 5.0 else 0
        }
        for place, item in enumerate(items):
            assert found.present["number"][place] == (item >= 0)
            if item >= 0:
                assert (found["number"][place] - item) / 100 in possible
                assert found["vector"][place].tolist() == [found["number"][place]] * 3
                assert found["word"][place] == f"w{item}"
            else:
                assert found["number"][place] == 0
                assert found["word"][place] is None


def test_only_what_is_new_or_old_is_read():
    store, clock = Store(), [0.0]
    kept = kept_of(store, clock)
    kept.read([1, 2])
    kept.read([2, 3])
    assert store.asked == [1, 2, 3]
    clock[0] = 4.0
    kept.read([4])
    clock[0] = 5.0
    kept.read([1, 4])
    assert store.asked == [1, 2, 3, 4, 1]


def test_what_is_half_as_old_is_renewed_between_requests():
    store, clock = Store(), [0.0]
    kept = kept_of(store, clock)
    kept.read([1, 2])
    clock[0] = 2.0
    kept.read([3])
    store.version = 1
    clock[0] = 2.6
    kept.renew()
    assert store.asked == [1, 2, 3, 1, 2]
    assert kept.read([1, 3])["number"].tolist() == [101.0, 3.0]
    clock[0] = 6.0
    kept.read([1])
    assert store.asked == [1, 2, 3, 1, 2]


def test_threads_get_whole_rows():
    store, clock = Store(), [0.0]
    kept = kept_of(store, clock, 40)
    at_once = threading.Barrier(4)

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        at_once.wait(600)
        for _ in range(200):
            items = rng.choice(60, 12, replace=False).tolist()
            assert kept.read(items)["number"].tolist() == items

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
