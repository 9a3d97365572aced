"""Bodies that come in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator


async def begun(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, but the first is there before the answer begins: a failed store is then still a problem."""
    first = await anext(source, b"")

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield first
            async for chunk in source:
                yield chunk
        finally:  # also when the client leaves
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    return chunks()
