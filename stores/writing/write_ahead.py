"""SQLite's write-ahead log, where several processes open a database at the same time."""

import random
import sqlite3
import time


def write_ahead(connection: sqlite3.Connection, seconds: float) -> None:
    """Turn the database to its write-ahead log, and wait up to `seconds` for who uses it.

    SQLite's own busy timeout does not hold here: a connection reads which journal there is before
    it asks to write. Two such would wait for each other for ever, so SQLite fails the second at
    once (https://sqlite.org/c3ref/busy_handler.html). Later statements need no care.

    Raises:
        sqlite3.OperationalError: if the database is in use for longer
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            in_use = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not in_use or time.monotonic() > deadline:
                raise
            # Unlike times, so that two do not meet again.
            time.sleep(random.uniform(0.001, 0.02))
        else:
            return


def scrub(connection: sqlite3.Connection) -> bool:
    """Leave no byte of deleted rows in a database or its log; return whether that succeeded.

    SQLite marks deleted rows as free and keeps their bytes. So the database is written again
    (https://sqlite.org/lang_vacuum.html), which takes its size once more on the disk, and its log
    is emptied. The log stays while another connection reads it: then it is written over later.

    Args:
        connection: Outside any transaction.
    """
    connection.execute("vacuum")
    (is_busy, *_) = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
    return not is_busy
