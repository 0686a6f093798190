"""CSV files as they come: their header, their delimiter, and line ends of one kind.

DuckDB reads rows; this reads the header only, because DuckDB's detection fails where lines below it
are broken, and says less. A file whose line ends are of several kinds is written once more with LF
alone, because DuckDB refuses it as a whole.
"""

import csv
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from transformations.errors import InputError
from transformations.places import is_object

DELIMITERS = (",", ";", "\t", "|")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""End of a file's name → what DuckDB calls it."""
PART_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Layout:
    """How the rows of a CSV file are read.

    Attributes:
        delimiter: Between fields.
        compression: As DuckDB calls it.
        before: Lines before the header.
    """

    delimiter: str
    compression: str
    before: int


def compression_of(file: Path) -> str:
    """Return DuckDB's name of a file's compression, by the end of its name."""
    return COMPRESSIONS.get(file.suffix.lower(), "none")


def header(file: Path, wanted: set[str]) -> tuple[Layout, tuple[str, ...]]:
    """Read a file's header: its first line that is not blank.

    Args:
        wanted: Names that decide between delimiters.

    Returns:
        The layout, and the names in order; `""` for a column without one.

    Raises:
        InputError: there is no header, or it is not UTF-8.
    """
    try:
        with opened(file) as stream:
            lines = _lines(stream)
            before = 0
            first = next(lines, b"").removeprefix(BOM)
            while first and not first.strip():
                before += 1
                first = next(lines, b"")
            while first.count(b'"') % 2 and (more := next(lines, b"")):
                first += more
            row = next(lines, b"")
        text = first.decode()
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as CSV in UTF-8: {error}") from error
    if not text.strip():
        raise InputError(f"{file}: expected a header with the names of its columns, got no line")
    forms = {delimiter: _split(text, delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda d: (len(wanted & {*forms[d]}), len(forms[d])))
    names = forms[delimiter]
    if not any(names):
        raise InputError(f"{file}: expected a header with names, got {text.strip()!r}")
    # A delimiter at the end of the header alone, or of the rows alone, is not a column.
    fields = _split(row.decode(errors="replace"), delimiter)
    if names[-1] == "" and len(fields) == len(names) - 1:
        names = names[:-1]
    elif len(fields) == len(names) + 1 and fields[-1] == "":
        names = [*names, ""]
    return Layout(delimiter, compression_of(file), before), tuple(names)


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed."""
    kind = compression_of(file)
    with file.open("rb") as stream:
        if kind == "gzip":
            with gzip.open(stream) as plain:
                yield cast(BinaryIO, plain)
        elif kind == "zstd":
            with pa.input_stream(stream, compression="zstd") as plain:
                yield io.BufferedReader(plain)
        elif is_object(file):  # its stream knows no readline(size)
            yield io.BufferedReader(cast(Any, stream))
        else:
            yield stream


def has_mixed_line_ends(file: Path) -> bool:
    """Whether a file has line ends (or a CR inside a text) of more than one kind."""
    lf = cr = both = 0
    last = b""
    with opened(file) as stream:
        while part := stream.read(PART_BYTES):
            lf, cr = lf + part.count(b"\n"), cr + part.count(b"\r")
            both += part.count(b"\r\n") + (last == b"\r" and part[:1] == b"\n")
            last = part[-1:]
    return cr > 0 and lf > 0 and not lf == cr == both


def with_one_line_end(file: Path, layout: Layout, copy: Path) -> None:
    """Write a file again, decompressed: LF ends a line; a CR elsewhere stays, in a quoted field."""
    delimiter = re.escape(layout.delimiter.encode())
    field = re.compile(rb'"(?:[^"]|"")*"|[^' + delimiter + rb'"]+')
    with opened(file) as stream, copy.open("wb") as out:
        for row in _rows(stream):
            if row.endswith(b"\r\n"):
                row = row[:-2] + b"\n"
            if b"\r" in row:
                end = row[-1:] if row.endswith(b"\n") else b""
                row = field.sub(_quote_cr, row.removesuffix(b"\n")) + end
            out.write(row)


def _rows(stream: BinaryIO) -> Iterator[bytes]:
    """Yield rows: lines, joined while a quoted field is open.

    A quote that is never closed would join the rest of the file: beyond a bound, lines come as
    they are, and the reader refuses them.
    """
    row, is_open = b"", False
    for line in stream:
        is_open ^= bool(line.count(b'"') % 2)
        row += line
        if not is_open or len(row) > PART_BYTES:
            yield row
            row = b""
    if row:
        yield row


def _quote_cr(found: re.Match[bytes]) -> bytes:
    text = found[0]
    return b'"' + text + b'"' if b"\r" in text and not text.startswith(b'"') else text


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines that end in LF, CRLF or, in a file without LF, CR."""
    while line := stream.readline(PART_BYTES):
        parts = line.splitlines(keepends=True)
        yield from parts if line[-1:] != b"\n" or not line.strip() else [line]


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(line.rstrip("\r\n"), newline=""), delimiter=delimiter), [])
