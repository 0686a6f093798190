"""PostgreSQL sessions in UTC, whatever the zone of server or user.

Feast hands times without a zone to columns with one: the session's zone decides which moment is
kept. In a zone with summer time an older row could win over a newer one for an hour a year, and a
reader in another zone than the writer's would see other times. In UTC the moment is the right one,
for plain Feast's reads too.
"""

from psycopg import AsyncConnection, Connection

SET = "set time zone 'UTC'"
UTC_NAMES = ("UTC", "Etc/UTC", "GMT")


def in_utc(connection: Connection) -> None:
    """Let a session be in UTC; asks the server only if it is not yet, which libpq knows."""
    if connection.info.parameter_status("TimeZone") not in UTC_NAMES:
        connection.execute(SET)
        connection.commit()


async def in_utc_async(connection: AsyncConnection) -> None:
    """As `in_utc`, without blocking the event loop."""
    if connection.info.parameter_status("TimeZone") not in UTC_NAMES:
        await connection.execute(SET)
        await connection.commit()
