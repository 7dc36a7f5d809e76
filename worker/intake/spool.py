"""The spool: events on disk until the broker has them.

A folder of append-only segments, each a file with one JSON record a line. A record is safe once its bytes
are synced; the records that come while a sync lasts share the next one. Records are read in the order in
which they were written, and a segment is removed when all of its records are done. So a kill repeats at most
one segment, with the same event ids, and the spool shrinks while events still come.

A line without its end was never acknowledged, and is cut off when the spool is opened. One process has the
spool at a time (`flock`).
"""

import asyncio
import fcntl
import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from worker.intake.requests import Record

SEGMENT = 1024 * 1024
"""Bytes after which the next segment begins."""
SET_ASIDE = "set-aside"
"""The file of the lines that can't be published: unreadable, or refused by the broker."""

_LOCK = "lock"
_SUFFIX = ".ndjson"
_T = TypeVar("_T")


class SpoolError(Exception):
    """The spool can't be opened, or did not take an event. The text says why."""


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int = 0
    """Bytes that are synced."""
    done: int = 0
    """Bytes of the records that are done; all before it are."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A record at the front of the spool; `record` is None if its line can't be read."""

    line: bytes
    record: Record | None


class Spool:
    """Keeps records on disk, in order. Use it as an async context manager."""

    def __init__(self, folder: Path, limit: int, *, segment: int = SEGMENT) -> None:
        """Keep at most `limit` bytes in the folder."""
        self._folder = folder
        self._limit = limit
        self._segment_size = segment
        self._segments: deque[_Segment] = deque()
        self._writing: int | None = None
        """The descriptor of the last segment, while it takes records."""
        self._set_aside = 0
        self._next = 1
        self._pending: list[tuple[bytes, int, asyncio.Future[None]]] = []
        self._pending_bytes = 0
        self._files = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "spool")
        self._writer: asyncio.Task[None] | None = None
        self._waiting = 0
        self.filled = asyncio.Event()
        """Set while a record waits."""

    @property
    def waiting(self) -> int:
        """Records that are not done, those that are being written included."""
        return self._waiting + sum(count for _, count, _ in self._pending)

    @property
    def size(self) -> int:
        """Bytes in the folder, and those that are about to be."""
        return sum(each.size for each in self._segments) + self._set_aside + self._pending_bytes

    @property
    def full(self) -> bool:
        """Whether there is no place for even a small event."""
        return self.size + 1024 > self._limit

    async def __aenter__(self) -> Self:
        """Open the folder, for this process alone. Raises `SpoolError`."""
        try:
            await self._run(self._open)
        except BlockingIOError as error:
            self._thread.shutdown()
            raise SpoolError(f"another process has the spool {self._folder}") from error
        except OSError as error:
            self._thread.shutdown()
            raise SpoolError(f"can't open the spool {self._folder}: {error.strerror or error}") from error
        self._show_filled()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written, and let another process have the folder."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._run(self._close)
        self._thread.shutdown()

    async def add(self, records: Sequence[Record]) -> None:
        """Return once the records are on the disk. Raises `SpoolError` if it has no place, or fails."""
        data = b"".join(map(to_line, records))
        if self.size + len(data) > self._limit:
            raise SpoolError(f"the spool is full: {self._limit} bytes")
        done = asyncio.get_running_loop().create_future()
        self._pending.append((data, len(records), done))
        self._pending_bytes += len(data)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_pending())
        await asyncio.shield(done)

    async def front(self, most: int) -> list[Stored]:
        """Return the first records that are not done, at most so many and not always as many as there are."""
        async with self._files:
            return await self._run(lambda: self._read_front(most))

    async def advance(self, done: Sequence[Stored], set_aside: Sequence[Stored] = ()) -> None:
        """Leave behind the first records, which `front` returned; keep the lines of some in a file aside."""
        async with self._files:
            await self._run(lambda: self._leave_behind(done, set_aside))
            self._show_filled()

    async def check(self) -> None:
        """Write to the disk and sync it, without adding a record. Raises `SpoolError`."""
        if self.full:
            raise SpoolError(f"the spool is full: {self._limit} bytes")
        async with self._files:
            try:
                await self._run(self._touch)
            except OSError as error:
                raise SpoolError(f"the spool can't be written: {error.strerror or error}") from error

    # --- writing ------------------------------------------------------------------------------------

    async def _write_pending(self) -> None:
        """Write what waits, all of it with one sync, until nothing waits."""
        while self._pending:
            async with self._files:
                batch, self._pending = self._pending, []
                data = b"".join(each for each, _, _ in batch)
                self._waiting += (count := sum(count for _, count, _ in batch))
                failed: OSError | None = None
                try:
                    await self._run(lambda data=data: self._append(data))  # type: ignore[misc]
                except OSError as error:
                    failed = error
                    self._waiting -= count
                self._pending_bytes -= len(data)
                self._show_filled()
            for _, _, done in batch:
                if failed is None:
                    done.set_result(None)
                else:
                    problem = SpoolError(f"the spool can't be written: {failed.strerror or failed}")
                    problem.__cause__ = failed
                    done.set_exception(problem)

    def _append(self, data: bytes) -> None:
        descriptor = self._descriptor()
        segment = self._segments[-1]
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            try:
                os.ftruncate(descriptor, segment.size)  # half a record must not be read as one
            finally:
                self._end_segment()  # what a file holds after a failed sync is not known
            if not segment.size:  # a full disk must not collect empty files
                self._segments.pop().path.unlink(missing_ok=True)
            raise
        segment.size += len(data)

    def _touch(self) -> None:
        os.write(self._lock, b"checked\n")
        os.fsync(self._lock)
        os.ftruncate(self._lock, 0)

    def _descriptor(self) -> int:
        """Return the descriptor of the last segment, of a new one if that is complete."""
        if self._writing is not None and self._segments[-1].size < self._segment_size:
            return self._writing
        self._end_segment()
        path = self._folder / f"{self._next:016d}{_SUFFIX}"
        self._next += 1
        descriptor = _create(path, os.O_EXCL)
        try:
            self._sync_folder()
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        self._writing = descriptor
        self._segments.append(_Segment(path))
        return descriptor

    def _end_segment(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- reading ------------------------------------------------------------------------------------

    def _read_front(self, most: int) -> list[Stored]:
        self._remove_done()
        if not self._segments:
            return []
        segment = self._segments[0]
        found: list[Stored] = []
        at = segment.done
        with segment.path.open("rb") as file:
            file.seek(at)
            for line in islice(file, most):
                at += len(line)
                if at > segment.size or (found and at - segment.done > SEGMENT):
                    break
                found.append(Stored(line, from_line(line)))
        return found

    def _leave_behind(self, done: Sequence[Stored], set_aside: Sequence[Stored]) -> None:
        if set_aside:
            lines = b"".join(each.line for each in set_aside)
            with os.fdopen(_create(self._folder / SET_ASIDE), "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            self._set_aside += len(lines)
        self._segments[0].done += sum(len(each.line) for each in done)
        self._waiting -= len(done)
        self._remove_done()

    def _remove_done(self) -> None:
        while self._segments and self._segments[0].done >= self._segments[0].size:
            if len(self._segments) == 1:
                self._end_segment()
            self._segments.popleft().path.unlink(missing_ok=True)

    # --- opening ------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _create(self._folder / _LOCK)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            data = path.read_bytes()
            size = data.rfind(b"\n") + 1
            if size < len(data):
                os.truncate(path, size)
            self._segments.append(_Segment(path, size))
            self._waiting += data.count(b"\n")
            self._next = int(path.stem) + 1
        aside = self._folder / SET_ASIDE
        self._set_aside = aside.stat().st_size if aside.exists() else 0
        self._remove_done()

    def _close(self) -> None:
        self._end_segment()
        os.close(self._lock)

    def _show_filled(self) -> None:
        if self._waiting:
            self.filled.set()
        else:
            self.filled.clear()

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Do it in the spool's thread, to its end even if the caller is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


def _create(path: Path, flags: int = 0) -> int:
    """Open a file to append to. Only its owner may read it, as an event may hold phone numbers."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, 0o600)


def to_line(record: Record) -> bytes:
    """Write a record as one line."""
    fields = {
        "id": record.id,
        "type": record.type,
        "at": record.at,
        "content_type": record.content_type,
        "headers": dict(record.headers),
        "body": record.body.decode(),
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Record | None:
    """Read a record; return None for a line that is none, as of a disk that is damaged."""
    try:
        fields = json.loads(line)
        return Record(
            id=str(fields["id"]),
            type=str(fields["type"]),
            body=fields["body"].encode(),
            content_type=str(fields["content_type"]),
            at=int(fields["at"]),
            headers={str(name): str(value) for name, value in fields["headers"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
