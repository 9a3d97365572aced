"""Statements in SQL, each made once: SQLAlchemy looks for the parameters in a text with regular expressions (0.2 ms)."""

from functools import lru_cache

from sqlalchemy import text

sql = lru_cache(maxsize=500)(text)

# A lease that ends further ahead than a lease can be was written by a clock that was wrong: lapsed as well. How far a
# lease can be ahead stands in its row (`ttl`): the reader's own RTSP__LEASE_TTL may be shorter than its owner's.
# clock_timestamp(), for now() is when the transaction began: a lease that was renewed since would end too far ahead. The
# half second is for a clock that is set back a little.
LAPSED = """(l.expires_at IS NULL OR l.expires_at < clock_timestamp()
    OR l.expires_at > clock_timestamp() + make_interval(secs => l.ttl) + interval '500 ms')"""
