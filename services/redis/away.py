"""What callers of Redis must know without importing it: a process without REDIS__HOST never does."""

from __future__ import annotations


class RedisAway(Exception):
    """Redis cannot be used now. `reason`: connection, timeout, slow, password, permission, full, read_only, loading,
    refused."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
