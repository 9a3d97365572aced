"""Reads the Dockerfile and .dockerignore well enough to do without Docker what they say (docker_steps, tests)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

_INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)


@dataclass(slots=True)
class Stage:
    """One FROM and what follows it. `copies`: (sources in the context, target), without COPY --from."""

    image: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """The arguments of each such instruction, in order."""
        return [argument for word, argument in self.instructions if word == keyword]

    @property
    def env(self) -> dict[str, str]:
        """ENV, its values as written."""
        pairs = [item.partition("=") for argument in self.all("ENV") for item in shlex.split(argument)]
        return {name: value for name, _, value in pairs}

    @property
    def copies(self) -> list[tuple[list[str], str]]:
        found = []
        for argument in self.all("COPY"):
            words = shlex.split(argument)
            if not words[0].startswith("--from="):
                found.append((words[:-1], words[-1]))
        return found


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile; ARG before the first FROM is put in for `${NAME}`."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in joined.splitlines():
        if not (match := _INSTRUCTION.match(line.strip())):
            continue
        word, rest = match.groups()
        if word == "FROM":
            for name, value in arguments.items():
                rest = rest.replace(f"${{{name}}}", value)
            image, _, name = rest.partition(" AS ")
            stages.append(Stage(image.strip(), name.strip()))
        elif stages:
            stages[-1].instructions.append((word, rest))
        elif word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
    return stages


def exec_form(argument: str) -> list[str]:
    """The words of a JSON-form CMD (also behind HEALTHCHECK's options). Raises ValueError for the shell form."""
    words = json.loads(argument[argument.index("[") :])
    if not isinstance(words, list):
        raise ValueError("not the exec form")
    return [str(word) for word in words]


class Ignore:
    """.dockerignore: the last pattern that matches the path or a folder above it decides."""

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for raw in text.splitlines():
            line = raw.strip()
            if line and not line.startswith("#"):
                self._rules.append((not line.startswith("!"), _pattern(line.lstrip("!").strip("/"))))

    def ignores(self, path: str) -> bool:
        ignored = False
        for excludes, pattern in self._rules:
            if pattern.match(path):
                ignored = excludes
        return ignored


def _pattern(glob: str) -> re.Pattern[str]:
    text = ""
    for part in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", glob):
        text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or (
            part if part.startswith("[") else re.escape(part)
        )
    return re.compile(rf"{text}(?:/.*)?$")


def copy_context(root: Path, stage: Stage, target: Path) -> list[Path]:
    """Does the stage's COPY lines from `root` into `target` (its WORKDIR). Raises FileNotFoundError for a missing one.

    Returns the copied files relative to `target`.
    """
    ignore = Ignore((root / ".dockerignore").read_text("utf-8"))
    copied: list[Path] = []
    for sources, destination in stage.copies:
        for source in sources:
            origin = root / source
            if not origin.exists() or ignore.ignores(source):
                raise FileNotFoundError(f"COPY {source}: not in the build context")
            if origin.is_file():
                pairs = [(origin, Path(destination) / source if destination.endswith("/") else Path(destination))]
            else:
                pairs = [
                    (file, Path(destination) / file.relative_to(origin))
                    for file in sorted(origin.rglob("*"))
                    if file.is_file() and not ignore.ignores(file.relative_to(root).as_posix())
                ]
            for file, place in pairs:
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / place)
                copied.append(place)
    return copied
