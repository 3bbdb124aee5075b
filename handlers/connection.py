"""What handlers are given to speak to PostgreSQL with."""

from typing import TypeAlias

from asyncpg import Connection as PlainConnection
from asyncpg import Record
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[Record] | PlainConnection[Record]"
"""A connection of the pool, or one of its own."""
