"""TensorFlow and Keras, imported only here, without their start-up messages on the terminal."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Written before TensorFlow reads its log level, and a false alarm on machines without a GPU.
CHATTER = re.compile(
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog|E\d{4} .*failed call to cuInit"
)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Capture what native code writes to stderr; print it later, except CHATTER."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not CHATTER.match(line):
                    print(line, file=sys.stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
with _without_chatter():
    import keras
    import keras_rs  # type: ignore[import-untyped]
    import tensorflow as tf

    # Otherwise the first operation looks up devices, with the same messages.
    tf.config.list_physical_devices()

# An evaluation makes dozens of graphs, each traced once. TensorFlow mistakes them for one function
# that is retraced. Functions that must not be retraced count their own traces.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.msg)


def saved_model_proto(data: bytes) -> Any:
    """Return what a file saved_model.pb holds, without loading it.

    Raises:
        ValueError: it holds something else.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        return saved_model_pb2.SavedModel.FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None


__all__ = ["keras", "keras_rs", "saved_model_proto", "tf"]
