"""The Spark session of a store, with this package on its executors."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PACKAGE = Path(__file__).parents[1]
INSTALL = "pip install 'pyspark>=4.1,<5', or this project's extra: pip install -e '.[spark]'"


def session_of(settings: Mapping[str, str]) -> SparkSession:
    """Return the session that is active, else one with these settings; send this package along.

    Raises:
        ImportError: there is no pyspark.
        RuntimeError: there is no Java, which a new session starts.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ImportError(f"expected pyspark, got none ({error}). Install it: {INSTALL}") from error
    session = SparkSession.getActiveSession()
    if session is None:
        _expect_java()
        # Only spark-submit reads the setting; a context that is made here reads the environment.
        python = settings.get("spark.pyspark.python")
        os.environ["PYSPARK_PYTHON"] = python or os.environ.get("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
    _send_along(session)
    return session


def _expect_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    if java is None:
        raise RuntimeError(
            f"expected Java 17 or later, on which Spark runs, got none in "
            f"{'JAVA_HOME (' + home + ')' if home else 'PATH'}. Install it: "
            "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
        )


def _send_along(session: SparkSession) -> None:
    """Put `stores` on the path of the executors' Python, once per context."""
    context = session.sparkContext
    if getattr(context, "_sent_stores", False):
        return
    folder = Path(tempfile.mkdtemp(prefix="stores-", dir=context._temp_dir))
    file = folder / "stores.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for source in sorted(PACKAGE.rglob("*.py")):
            archive.write(source, Path(PACKAGE.name, source.relative_to(PACKAGE)))
    context.addPyFile(str(file))
    context._sent_stores = True  # type: ignore[attr-defined]
