import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.quantization import DTYPES, Quantization, bytes_per_member, stored
from transformations.errors import InputError

VECTORS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32),
)


def test_bytes_of_one_learned_vector_are_a_third_of_three_decayed():
    for dtype in DTYPES:
        assert 3 * bytes_per_member(1, 64, dtype) == bytes_per_member(3, 64, dtype)
    vectors = np.zeros((1, 64), np.float32)
    assert bytes_per_member(1, 64, "float32") == vectors.nbytes
    assert bytes_per_member(1, 64, "float16") == vectors.astype(np.float16).nbytes
    assert bytes_per_member(1, 64, "int8") == Quantization.fit(vectors).to_int8(vectors).nbytes


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_the_error_is_at_most_half_a_step(vectors):
    quantization = Quantization.fit(vectors)
    got = quantization.from_int8(quantization.to_int8(vectors))
    assert got.dtype == np.float32
    # float32's own rounding of the offset, the step and the result.
    rounding = 4 * np.finfo(np.float32).eps * np.abs(vectors).max(axis=0, initial=0.0)
    smallest = 128 * np.finfo(np.float32).tiny  # a step below it counts as constant
    assert (np.abs(vectors - got) <= quantization.scale / 2 + rounding + smallest).all()


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_the_whole_range_is_used(vectors):
    quantization = Quantization.fit(vectors)
    steps = quantization.to_int8(vectors).astype(int)
    ranges = vectors.astype(float).max(axis=0) - vectors.astype(float).min(axis=0)
    wide = ranges > np.maximum(1e-3 * np.abs(vectors).max(axis=0), 1e-30)
    assert (steps.max(axis=0)[wide] == 127).all()
    assert (steps.min(axis=0)[wide] == -127).all()


def test_values_outside_the_range_are_clipped():
    quantization = Quantization.fit(np.array([[-1.0, 5.0], [1.0, 5.0]], np.float32))
    got = stored(np.array([[-9.0, 5.0], [9.0, 5.0]], np.float32), "int8", quantization)
    np.testing.assert_allclose(got, [[-1, 5], [1, 5]], rtol=1e-6)


def test_cutting_outliers_leaves_a_finer_step_for_the_rest():
    vectors = np.concatenate([np.linspace(-1, 1, 1_000), [1e3, -1e3]])[:, None].astype(np.float32)
    cut = Quantization.fit(vectors, cut=0.002)
    assert cut.scale[0] < 0.01 < Quantization.fit(vectors).scale[0]
    error = np.abs(cut.from_int8(cut.to_int8(vectors)) - vectors)
    assert (error[:1_000] <= cut.scale / 2 + 0.01).all()


def test_it_is_kept_in_json_without_loss():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    quantization = Quantization.fit(vectors)
    again = Quantization.from_json(json.loads(json.dumps(quantization.to_json())))
    for got, expected in ((again.offset, quantization.offset), (again.scale, quantization.scale)):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(InputError, match="dtype int8 with offset and scale"):
        Quantization.from_json({"dtype": "float16"})


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_float16_keeps_eleven_bits(vectors):
    np.testing.assert_array_equal(stored(vectors, "float32"), vectors)
    np.testing.assert_allclose(stored(vectors, "float16"), vectors, rtol=2**-11, atol=2**-25)


def test_vectors_that_cannot_be_stored_are_refused():
    wrong = np.array([[1.0, np.nan], [1.0, 2.0]], np.float32)
    with pytest.raises(InputError, match="1 of 2 with NaN"):
        Quantization.fit(wrong)
    with pytest.raises(InputError, match="1 of 2 with NaN"):
        Quantization.fit(wrong[1:]).to_int8(wrong)
    with pytest.raises(InputError, match="got none"):
        Quantization.fit(wrong[:0])
    with pytest.raises(InputError, match="fit one first"):
        stored(wrong[1:], "int8")
    with pytest.raises(InputError, match="at most 65504"):
        stored(np.array([[1e5]], np.float32), "float16")
