"""Reading the Dockerfile and its .dockerignore: as much of the formats as this project's files use."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from string import Template

SHELL_FORM = ("/bin/sh", "-c")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined; `COPY --from=builder a b` has a flag and two arguments."""

    name: str
    text: str

    @property
    def flags(self) -> dict[str, str]:
        """The `--name=value` at its beginning."""
        return dict(re.findall(r"--([\w-]+)=(\S+)", self._parted()[0]))

    @property
    def arguments(self) -> list[str]:
        """The words after the flags, as a shell splits them."""
        return shlex.split(self._parted()[1])

    def pairs(self, values: Mapping[str, str]) -> dict[str, str]:
        """The `NAME=value` of an ENV, ARG or LABEL, with the variables in them replaced."""
        named = (word.partition("=") for word in self.arguments)
        return {name: Template(value).substitute(values) for name, _, value in named}

    def command(self) -> list[str]:
        """The command of an ENTRYPOINT, CMD, HEALTHCHECK or RUN, in either form."""
        text = self._parted()[1].removeprefix("CMD ")
        return list(json.loads(text)) if text.startswith("[") else [*SHELL_FORM, text]

    def _parted(self) -> tuple[str, str]:
        match = re.match(r"((?:--[\w-]+=\S+\s+)*)(.*)", self.text, re.DOTALL)
        assert match is not None
        return match[1], match[2]


def read(text: str) -> list[Instruction]:
    """Return the instructions in their order; comments are left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parted = (line.partition(" ") for line in joined.split("\n"))
    return [Instruction(name.upper(), rest) for name, _, rest in parted]


def stages(instructions: Iterable[Instruction]) -> Iterator[list[Instruction]]:
    """Part the instructions after each FROM; what stands before the first one comes first."""
    stage: list[Instruction] = []
    for instruction in instructions:
        if instruction.name == "FROM":
            yield stage
            stage = []
        stage.append(instruction)
    yield stage


def is_left_out(path: str, dockerignore: str) -> bool:
    """Return whether a .dockerignore keeps a file from the build: the last pattern that fits decides.

    A pattern that fits a folder fits all that is in it.
    """
    place = PurePosixPath(path)
    names = [str(place), *(str(parent) for parent in place.parents if parent.name)]
    left_out = False
    for line in dockerignore.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            fits = re.compile(_expression(pattern.removeprefix("!").strip("/")))
            if any(fits.fullmatch(name) for name in names):
                left_out = not pattern.startswith("!")
    return left_out


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(special.get(part, re.escape(part)) for part in parts)
