"""What a signal does that comes before the worker can stop in order."""

import os
import signal
from collections.abc import Iterator

import pytest

from worker import __main__ as entry


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put back the handler of the tests' own process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_ends_the_process_by_that_signal_and_where_none_can_by_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel gives process 1 of a container no signal that it has no handler for, not even its own."""
    sent: list[tuple[int, int]] = []

    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr("sys.argv", ["crm-sync", "--help"])
    with pytest.raises(SystemExit):
        entry.main()
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler)
    with pytest.raises(SystemExit) as ended:
        handler(signal.SIGTERM, None)
    assert ended.value.code == 143
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_to_be_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr("sys.argv", ["crm-sync", "--help"])
    with pytest.raises(SystemExit):
        entry.main()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
