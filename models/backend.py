"""TensorFlow and Keras, imported here only: their start-up chatter is kept off the terminal."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Written before TensorFlow can read its own log level, or a false alarm where there is no GPU.
CHATTER = re.compile(
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog|E\d{4} .*failed call to cuInit"
)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what native code writes to stderr; pass on all but CHATTER."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not CHATTER.match(line):
                    print(line, file=sys.stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
with _without_chatter():
    import keras
    import keras_rs  # type: ignore[import-untyped]
    import tensorflow as tf

    # Devices are looked up at the first operation otherwise, with the same chatter.
    tf.config.list_physical_devices()

# An evaluation makes graphs by the dozen, each traced once; TensorFlow takes them for one function
# that is traced again and again. What must not be traced again counts its traces itself.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.msg)

__all__ = ["keras", "keras_rs", "tf"]
