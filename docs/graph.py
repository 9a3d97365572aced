"""Draws the house from its imports: each folder's rooms, in layers. Exits 1 when imports go round in a circle.

python -m docs.graph [--check]

The drawing (Mermaid) stands in docs/architecture.md between two markers; `--check` compares and writes nothing. Imports
for types only (`if TYPE_CHECKING`) are left out: they do not run. `grimp` comes with import-linter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by `make graph`: begin -->\n", "<!-- made by `make graph`: end -->\n"
ROOTS = ("api", "services", "repositories", "models", "utils")
Rooms = Mapping[str, set[str]]  # a room, and the rooms of the same folder that it imports


def folders(graph: grimp.ImportGraph) -> Iterator[tuple[str, Rooms]]:
    """Every folder that has rooms, outermost first; the top is ''. A room is a module or a folder with all inside it."""
    yield "", _rooms(graph, ROOTS)
    for module in sorted(graph.modules):
        if children := sorted(graph.find_children(module)):
            yield module, _rooms(graph, children)


def _rooms(graph: grimp.ImportGraph, names: tuple[str, ...] | list[str]) -> Rooms:
    room_of = {module: room for room in names for module in (room, *graph.find_descendants(room))}
    rooms: dict[str, set[str]] = {room: set() for room in names}
    for module, room in room_of.items():
        for imported in graph.find_modules_directly_imported_by(module):
            other = room_of.get(imported, room)
            if other != room:
                rooms[room].add(other)
    return rooms


def layers(rooms: Rooms) -> list[list[str]]:
    """The rooms from top to bottom: each imports only from layers below its own. Raises graphlib.CycleError."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        height[room] = 1 + max((height[other] for other in rooms[room]), default=-1)
    return [sorted(r for r in rooms if height[r] == level) for level in range(max(height.values()), -1, -1)]


def without_shortcuts(rooms: Rooms) -> Rooms:
    """The same order with fewer arrows: one that follows from two others is left out. `rooms` has no circle."""
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(rooms).static_order():
        below[room] = rooms[room].union(*(below[other] for other in rooms[room]))
    return {room: others - set().union(*(below[other] for other in others)) for room, others in rooms.items()}


def drawing(folder: str, rooms: Rooms) -> str:
    """One folder as a Mermaid flowchart; its layers are the ranks."""
    lines = ["```mermaid", "flowchart TD"]
    for level in layers(rooms):
        lines += [f"    {room.replace('.', '_')}[{room.rpartition('.')[2]}]" for room in level]
    for room, others in sorted(without_shortcuts(rooms).items()):
        lines += [f"    {room.replace('.', '_')} --> {other.replace('.', '_')}" for other in sorted(others)]
    title = f"`{folder.replace('.', '/')}/`" if folder else "The top folders"
    return "\n".join([f"{title}:", "", *lines, "```", ""])


def main(arguments: list[str] | None = None) -> int:
    """Draws the folders that hold several folders, looks for circles in all of them. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.graph", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page differs")
    check = parser.parse_args(arguments).check
    graph = grimp.build_graph(*ROOTS, exclude_type_checking_imports=True, cache_dir=None)
    drawings, code = [], 0
    for folder, rooms in folders(graph):
        try:
            levels = layers(rooms)
        except CycleError as error:
            print(f"{folder or 'top'}: a circle: {' -> '.join(reversed(error.args[1]))}", file=sys.stderr)
            code = 1
            continue
        if not folder or sum(bool(graph.find_children(room)) for room in rooms) > 1:
            drawings.append(drawing(folder, rooms))
            names = (" ".join(room.rpartition(".")[2] for room in level) for level in levels)
            print(f"{folder or 'top'}: {'  >  '.join(names)}")
    if code:
        return code
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    text = f"{before}{BEGIN}{chr(10).join(drawings)}{END}{rest.partition(END)[2]}"
    if text == PAGE.read_text("utf-8"):
        return 0
    if check:
        print(f"{PAGE.name} differs from the imports: run `make graph`", file=sys.stderr)
        return 1
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
