"""What a packaged SavedModel may do: what it computes is data, and it touches nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.allowed import ALLOWED, STATEFUL, STATELESS, refuse_other_operations
from models.backend import tf
from models.catalog import AGGREGATORS
from models.layers.build import build
from models.packaging import _save
from models.spec import (
    AttentionPool,
    Average,
    Cnn,
    GeometricDecay,
    Gru,
    LearnedDecay,
    Transformer,
)
from tests.worlds.tiny_models import tiny_config
from transformations.errors import InputError

ONE = [tf.TensorSpec([None, 2], tf.float32)]
EVERY = (
    *(Average(version=1), GeometricDecay(version=1, decay=0.8), LearnedDecay(version=1)),
    *(AttentionPool(version=1), Cnn(version=1), Gru(version=1), Transformer(version=1)),
)


def saved(folder: Path, embed: Callable[[Any], Any], **more: Any) -> Path:
    """A SavedModel whose signature `embed` computes this."""
    module = tf.Module()
    for name, value in more.items():
        setattr(module, name, value)
    function = tf.function(lambda x: {"v": embed(x)}, input_signature=ONE)
    tf.saved_model.save(module, str(folder), signatures={"embed": function})
    return folder


def check(folder: Path) -> None:
    refuse_other_operations(folder, "embed")


@pytest.mark.parametrize("line", EVERY, ids=lambda line: line.kind)
def test_every_layer_of_ours_is_allowed(tmp_path: Path, line: Any) -> None:
    config = tiny_config(tmp_path)
    _save(build(line, config), tmp_path / "saved", config)
    check(tmp_path / "saved")


def test_every_line_of_the_catalogue_is_one_of_these() -> None:
    assert {type(line) for line in AGGREGATORS} <= {type(line) for line in EVERY}


def test_stateless_operations_are() -> None:
    """TensorFlow itself says which have no state, and it knows each of the list."""
    from tensorflow.python.framework import op_def_registry

    known = {name: op_def_registry.get(name) for name in ALLOWED}
    assert {name for name, of in known.items() if of is None} == set()
    assert {name for name in STATELESS if known[name].is_stateful} == set()
    files = ("File", "Save", "Restore", "Checkpoint", "Dataset", "PyFunc", "Print", "Send", "Recv")
    assert {name for name in ALLOWED if any(word in name for word in files)} == set()
    assert not STATEFUL & STATELESS


def branch(x: Any) -> Any:
    secret = tf.reduce_sum(x) > 1e30
    text = tf.cond(secret, lambda: tf.io.read_file("/etc/hostname"), lambda: tf.constant(""))
    return x + tf.cast(tf.strings.length(text), tf.float32)


def loop(x: Any) -> Any:
    def body(step: Any) -> tuple[Any]:
        tf.io.write_file("/tmp/never-written", "x")
        return (step + 1,)

    return x + tf.cast(tf.while_loop(lambda s: s < 3, body, (0,))[0], tf.float32)


@tf.function
def inner(x: Any) -> Any:
    return x + tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32)


HOSTILE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ReadFile": (lambda x: x + tf.strings.to_number(tf.io.read_file("/etc/hostname")), "ReadFile"),
    "in a branch": (branch, "ReadFile"),
    "in a loop": (loop, "WriteFile"),
    "in a function of a function": (lambda x: inner(inner(x)), "MatchingFiles"),
    "Python": (lambda x: tf.numpy_function(lambda y: y, [x], tf.float32), "PyFunc"),
    "print": (lambda x: (tf.print(x), x)[1], "PrintV2"),
    "random": (lambda x: x + tf.random.normal([2]), "RandomStandardNormal"),
    "a data set": (lambda x: x + tf.data.TextLineDataset("/etc/x").reduce(0.0, lambda a, _: a), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_embed_reaches_is_refused_by_name(tmp_path: Path, name: str) -> None:
    embed, op = HOSTILE[name]
    folder = saved(tmp_path / "saved", embed)
    with pytest.raises(InputError, match=rf"expected operations on tensors only.*\n.*{op}"):
        check(folder)


def test_what_loading_reaches_is_refused(tmp_path: Path) -> None:
    """A table that a file fills is filled when it is loaded, whether `embed` reads it or not."""
    (tmp_path / "words").write_text("a\nb\n")
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        1,
    )
    folder = saved(tmp_path / "saved", lambda x: x, table=table)
    with pytest.raises(InputError, match="InitializeTableFromTextFileV2"):
        check(folder)


def test_variables_and_tables_of_constants_are_allowed(tmp_path: Path) -> None:
    keys = tf.constant([1, 2], tf.int64)
    values = tf.constant([0.5, 0.25])
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)
    weight = tf.Variable([1.0, 2.0])
    folder = saved(
        tmp_path / "saved",
        lambda x: x * weight + table.lookup(tf.cast(x, tf.int64)),
        table=table,
        weight=weight,
    )
    check(folder)


def test_what_neither_reaches_is_not_asked_about(tmp_path: Path) -> None:
    """Such as the functions that save and restore it, and those that train."""
    train = tf.function(lambda x: x + tf.random.normal([2]), input_signature=ONE)
    check(saved(tmp_path / "saved", lambda x: x + 1.0, train=train, weight=tf.Variable(1.0)))


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_another_form_that_would_be_loaded_instead_is_refused(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "saved", lambda x: x)
    (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"saved_model\.pb"):
        check(folder)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", lambda x: x)
    (folder / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="expected one graph"):
        check(folder)
