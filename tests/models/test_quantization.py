import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.quantization import (
    COLUMNS,
    DTYPES,
    bytes_per_member,
    floats,
    from_int8,
    of_vectors,
    stored,
    to_int8,
)
from transformations.errors import InputError

VECTORS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def test_bytes_of_one_learned_vector_are_a_third_of_three_decayed() -> None:
    for dtype in DTYPES:
        assert 3 * bytes_per_member(1, 64, dtype) == bytes_per_member(3, 64, dtype)
    vectors = np.zeros((1, 64), np.float32)
    assert bytes_per_member(1, 64, "float32") == vectors.nbytes
    assert bytes_per_member(1, 64, "float16") == vectors.astype(np.float16).nbytes
    assert bytes_per_member(1, 64, "int8") == to_int8(vectors).nbytes


def test_bytes_written_by_hand() -> None:
    vectors = np.array([[63.5, -25.0, 0.25], [0.0, 0.0, 0.0], [-127.0, 2.5, 3.5]], np.float32)
    assert [row.tobytes() for row in to_int8(vectors)] == [
        bytes.fromhex("0000003f") + bytes([127, 256 - 50, 0]),  # scale 0.5; 0.5 rounds to even
        bytes(7),
        bytes.fromhex("0000803f") + bytes([256 - 127, 2, 4]),  # scale 1
    ]
    assert from_int8(to_int8(vectors)).tolist() == [[63.5, -25, 0], [0, 0, 0], [-127, 2, 4]]


@settings(max_examples=200, deadline=None)
@given(VECTORS)
def test_each_number_is_the_nearest_step(vectors: np.ndarray) -> None:
    kept = to_int8(vectors)
    got, steps = from_int8(kept), kept[:, 4:].view(np.int8).astype(int)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    for vector, row, scale, ours in zip(
        vectors, got, kept[:, :4].copy().view("<f4"), steps, strict=True
    ):
        largest = float(np.abs(vector).max())
        if largest / 127 < np.finfo(np.float32).tiny:
            assert not row.any()
            continue
        assert abs(ours).max() == 127
        # By hand: of the 255 steps the nearest, of two equally near the even one.
        for number, step in zip(vector.astype(float), ours.tolist(), strict=True):
            exact = number / float(scale[0])
            nearest = min(range(-127, 128), key=lambda q: (abs(exact - q), q % 2))
            assert step == nearest
        # float32's own rounding of the scale and of the result.
        assert np.abs(vector.astype(float) - row).max() <= largest * (0.5 / 127 + 3e-7)


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_a_column_holds_what_is_stored(vectors: np.ndarray) -> None:
    for store, column in COLUMNS.items():
        made = column.of(vectors)
        made.validate(full=True)
        assert made.type == column.kind
        expected = stored(vectors, store)
        assert floats(made).to_pylist() == expected.tolist()
        chunks = pa.chunked_array([pa.concat_arrays([made.slice(1), pa.nulls(2, made.type)]), made])
        both = [*expected[1:].tolist(), None, None, *expected.tolist()]
        assert floats(chunks).to_pylist() == both


def test_sql_tells_dimensions_and_what_is_not_finite() -> None:
    vectors = np.array([[1.0, -2.0], [0.0, 0.0], [3e38, 1e-38]], np.float32)
    wrong = {
        "float32": pa.array([[1.0, float("nan")]], pa.list_(pa.float32())),
        "int8": pa.array([np.float32(np.inf).tobytes() + b"\1\1"], pa.binary()),
    }
    for store, column in COLUMNS.items():
        good, null = column.of(vectors), pa.nulls(1, column.kind)
        table = pa.table({"a": pa.concat_arrays([good, null, wrong[store]]), "b": [good[0]] * 5})
        query = f"select {of_vectors(['a', 'b'], store)} from t"
        got = duckdb.connect().register("t", table).sql(query).fetchall()
        assert got == [*[([2, 2], False)] * 3, ([0, 2], False), ([2, 2], True)]


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(-1e4, 1e4, width=32),
    )
)
def test_float16_keeps_eleven_bits(vectors: np.ndarray) -> None:
    np.testing.assert_array_equal(stored(vectors, "float32"), vectors)
    np.testing.assert_allclose(stored(vectors, "float16"), vectors, rtol=2**-11, atol=2**-25)


def test_vectors_that_cannot_be_stored_are_refused() -> None:
    wrong = np.array([[1.0, np.nan], [1.0, 2.0], [-np.inf, 0.0]], np.float32)
    with pytest.raises(InputError, match="2 of 3 with NaN"):
        to_int8(wrong)
    with pytest.raises(InputError, match="2 of 3 with NaN"):
        stored(wrong, "int8")
    with pytest.raises(InputError, match="at most 65504"):
        stored(np.array([[1e5]], np.float32), "float16")
