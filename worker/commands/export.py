"""Writing an export: a file for its owner alone, whole or not at all, or standard output."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from worker.commands.common import stop_with, to_json

Write = Callable[[dict[str, Any]], None]


@contextmanager
def write_lines(file: Path, *, replace: bool) -> Iterator[Write]:
    """Give the function that writes one JSON line; the file takes its name at the end, if all went well.

    Exits if there is such a file that may not be replaced: it may hold the only copy of what was discarded
    since.
    """
    if str(file) == "-":
        yield _write_to_standard_output
        return
    special = file.exists() and not file.is_file()  # a pipe or a device must not be replaced by a file
    if not special and not replace:
        _insist_on_no_file(file)
    with _special_file(file) if special else _new_file(file.resolve(), replace=replace) as write:
        yield write


def _insist_on_no_file(file: Path) -> None:
    """Exit if there is such a file."""
    if file.exists():
        stop_with(f"{file} exists; name another file, or replace it with --force")


def _write_to_standard_output(value: dict[str, Any]) -> None:
    try:
        sys.stdout.write(_line(value))
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


@contextmanager
def _special_file(file: Path) -> Iterator[Write]:
    with _explained(file):
        descriptor = os.open(file, os.O_WRONLY)
    try:
        yield lambda value: _write_all(file, descriptor, _line(value).encode())
    finally:
        os.close(descriptor)


def _write_all(file: Path, descriptor: int, data: bytes) -> None:
    with _explained(file):
        while data:
            data = data[os.write(descriptor, data) :]


@contextmanager
def _new_file(file: Path, *, replace: bool) -> Iterator[Write]:
    """Write beside the file, which only its owner can read (as `mkstemp` makes it), and rename at the end."""
    with _explained(file):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:

            def write(value: dict[str, Any]) -> None:
                with _explained(file):
                    stream.write(_line(value).encode())

            yield write
            with _explained(file):
                stream.flush()
                os.fsync(stream.fileno())
            if not replace:
                _insist_on_no_file(file)
            with _explained(file):
                Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        stop_with(f"can't write {file}: {error.strerror}")


def _line(value: dict[str, Any]) -> str:
    return to_json(value) + "\n"
