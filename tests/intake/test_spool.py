"""The spool: what it took is on the disk, comes back in order, and survives whatever ends the process."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.requests import Record
from worker.intake.spool import SET_ASIDE, Spool, SpoolError, Stored, from_line, to_line

LIMIT = 1_000_000


def record(number: int, size: int = 0) -> Record:
    return Record(f"id-{number}", "call.ended", b"{" + b" " * size + b"}", at=number)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ndjson"))


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def ids(stored: list[Stored]) -> list[str | None]:
    return [None if each.record is None else each.record.id for each in stored]


async def drain(spool: Spool, at_once: int = 3) -> list[str | None]:
    """Read all records and leave them behind, as the relay does."""
    found: list[str | None] = []
    while stored := await spool.front(at_once):
        found += ids(stored)
        await spool.advance(stored)
    return found


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the system refuse to let a file grow beyond so many bytes, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_records_come_back_in_order_and_leave_nothing(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool", LIMIT) as spool:
        assert not spool.filled.is_set()
        for number in range(10):
            await spool.add([record(number)])
        assert (spool.waiting, spool.filled.is_set()) == (10, True)
        assert await drain(spool) == [f"id-{number}" for number in range(10)]
        assert (spool.waiting, spool.size, spool.filled.is_set()) == (0, 0, False)
        assert segments(tmp_path / "spool") == []
        await spool.add([record(10)])
        assert await drain(spool) == ["id-10"]


async def test_what_was_taken_is_there_after_the_process_is_gone(tmp_path: Path) -> None:
    """Nothing is closed here: the files are read as they are at that moment."""
    async with Spool(tmp_path / "a", LIMIT) as spool:
        await spool.add([record(1), record(2)])
        await spool.add([record(3)])
        (tmp_path / "b").mkdir()
        for path in segments(tmp_path / "a"):
            (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    async with Spool(tmp_path / "b", LIMIT) as copy:
        assert copy.waiting == 3
        assert copy.filled.is_set()
        assert await drain(copy) == ["id-1", "id-2", "id-3"]


@pytest.mark.parametrize("torn", [b"{", to_line(record(2))[:-1], b"\0" * 100])
async def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    async with Spool(tmp_path, LIMIT) as spool:
        await spool.add([record(1)])
        (path,) = segments(tmp_path)
    with path.open("ab") as file:
        file.write(torn)
    async with Spool(tmp_path, LIMIT) as spool:
        assert spool.waiting == 1
        await spool.add([record(3)])
        assert await drain(spool) == ["id-1", "id-3"]


async def test_a_line_that_is_no_record_is_kept_aside_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / f"{5:016d}.ndjson").write_bytes(to_line(record(1)) + b"damaged\n" + to_line(record(2)))
    async with Spool(tmp_path, LIMIT) as spool:
        stored = await spool.front(10)
        assert ids(stored) == ["id-1", None, "id-2"]
        await spool.advance(stored, [each for each in stored if each.record is None])
        assert spool.waiting == 0
        await spool.add([record(3)])
        assert segments(tmp_path)[0].stem == f"{6:016d}"
    assert (tmp_path / SET_ASIDE).read_bytes() == b"damaged\n"
    async with Spool(tmp_path, LIMIT) as spool:
        assert spool.size == len(b"damaged\n") + len(to_line(record(3)))


async def test_a_segment_is_removed_once_it_is_done_while_more_comes(tmp_path: Path) -> None:
    size = len(to_line(record(0)))
    async with Spool(tmp_path, LIMIT, segment=2 * size) as spool:
        for number in range(5):
            await spool.add([record(number)])
        assert len(segments(tmp_path)) == 3
        stored = await spool.front(10)
        assert ids(stored) == ["id-0", "id-1"]
        await spool.advance(stored[:1])
        assert len(segments(tmp_path)) == 3
        await spool.advance(stored[1:])
        assert len(segments(tmp_path)) == 2
    async with Spool(tmp_path, LIMIT, segment=2 * size) as spool:
        await spool.add([record(5)])
        assert await drain(spool) == ["id-2", "id-3", "id-4", "id-5"]


async def test_large_records_are_not_read_all_at_once(tmp_path: Path) -> None:
    async with Spool(tmp_path, 10_000_000) as spool:
        await spool.add([record(number, 600_000) for number in range(3)])
        assert [len(await spool.front(10)), await drain(spool, 10)] == [1, ["id-0", "id-1", "id-2"]]


async def test_a_full_spool_takes_nothing_more_until_there_is_place(tmp_path: Path) -> None:
    async with Spool(tmp_path, 5000) as spool:
        await spool.add([record(1, 4000)])
        full_before = spool.full
        with pytest.raises(SpoolError, match="the spool is full"):
            await spool.add([record(2, 1000)])
        assert await drain(spool) == ["id-1"]
        assert [full_before, spool.full] == [True, False]
        await spool.add([record(2, 1000)])


async def test_a_full_disk_is_an_error_and_spoils_no_record(tmp_path: Path) -> None:
    async with Spool(tmp_path, LIMIT) as spool:
        await spool.add([record(1)])
        with largest_file(200):
            for number in (2, 3):
                with pytest.raises(SpoolError, match="can't be written"):
                    await spool.add([record(number, 1000)])
            assert len(segments(tmp_path)) == 1, "no empty file for each failure"
            await spool.add([record(4)])
        assert spool.waiting == 2
        await spool.add([record(5, 1000)])
        assert await drain(spool) == ["id-1", "id-4", "id-5"]
        assert spool.size == 0


async def test_who_waits_for_one_sync_shares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    async with Spool(tmp_path, LIMIT) as spool:
        await asyncio.gather(*(spool.add([record(number)]) for number in range(100)))
        assert spool.waiting == 100
        assert len(synced) <= 4
        assert await drain(spool) == [f"id-{number}" for number in range(100)]


async def test_a_caller_that_is_cancelled_spoils_nothing(tmp_path: Path) -> None:
    async with Spool(tmp_path, LIMIT) as spool:
        tasks = [asyncio.create_task(spool.add([record(number)])) for number in range(5)]
        reading = asyncio.create_task(spool.front(1))
        await asyncio.sleep(0)
        for task in (*tasks[::2], reading):
            task.cancel()
        await asyncio.gather(*tasks, reading, return_exceptions=True)
        await spool.add([record(5)])
        assert await drain(spool) == [f"id-{number}" for number in range(6)]


async def test_one_process_has_the_spool(tmp_path: Path) -> None:
    async with Spool(tmp_path, LIMIT):
        with pytest.raises(SpoolError, match="another process has the spool"):
            await Spool(tmp_path, LIMIT).__aenter__()
    async with Spool(tmp_path, LIMIT):
        pass


async def test_a_folder_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"can't open the spool .*file/spool"):
        await Spool(tmp_path / "file" / "spool", LIMIT).__aenter__()


async def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    async with Spool(tmp_path, LIMIT) as spool:
        await spool.add([record(1)])
        await spool.advance(stored := await spool.front(1), stored)
        await spool.add([record(2)])
    assert {path.name: path.stat().st_mode & 0o077 for path in files(tmp_path)} == {
        "lock": 0,
        SET_ASIDE: 0,
        f"{2:016d}.ndjson": 0,
    }


@given(
    st.builds(
        Record,
        id=st.text(),
        type=st.text(),
        body=st.text().map(str.encode),
        content_type=st.text(),
        at=st.integers(),
        headers=st.dictionaries(st.text(), st.text()),
    )
)
def test_a_record_is_one_line_and_comes_back_the_same(made: Record) -> None:
    line = to_line(made)
    assert line.count(b"\n") == 1
    assert from_line(line) == made


@given(
    st.binary()
    | st.sampled_from([b"1", b"null", b"[]", b"{}", to_line(record(1))[:-9], b'{"id":1,"body":1}'])
)
def test_a_line_that_is_none_is_none(line: bytes) -> None:
    assert from_line(line) is None
