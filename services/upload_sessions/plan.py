"""How a file is cut into parts, and which of them have arrived. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.values import StagedPart

MAX_PARTS = 1000  # S3 takes 10,000; a session's answer names them all
_MIB = 1_048_576


def part_size_of(size: int, wanted: int) -> int | None:
    """Bytes of each part but the last; None when one PUT is enough. `wanted`: UPLOAD__PART_SIZE."""
    if size <= wanted:
        return None
    least = -(-size // MAX_PARTS)
    return max(wanted, -(-least // _MIB) * _MIB)


def sizes_of(size: int, part_size: int | None) -> list[tuple[int, int]]:
    """(number, bytes) of each part; of the whole when it is not cut."""
    if part_size is None:
        return [(1, size)]
    count = -(-size // part_size)
    return [(number, min(part_size, size - (number - 1) * part_size)) for number in range(1, count + 1)]


def whole_parts(sizes: Sequence[tuple[int, int]], arrived: Sequence[StagedPart]) -> dict[int, StagedPart]:
    """The parts that are there, by number, in the length that they shall have."""
    found = {part.number: part for part in arrived}
    return {number: found[number] for number, size in sizes if number in found and found[number].size == size}


def missing_parts(
    sizes: Sequence[tuple[int, int]], arrived: Mapping[int, StagedPart], wanted: Mapping[int, str] | None
) -> list[int]:
    """Numbers of parts to be sent (again): not there, or not those that the client says it has sent (`wanted`: ETags)."""
    return [
        number for number, _ in sizes
        if number not in arrived or (wanted is not None and wanted.get(number) != arrived[number].etag)
    ]  # fmt: skip
