"""What the online stores raise while they are away; a later try may succeed."""

import sqlite3

import psycopg
import redis

STORE_GONE = (
    redis.exceptions.RedisError,
    sqlite3.OperationalError,
    psycopg.OperationalError,
    OSError,
)
