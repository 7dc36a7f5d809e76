"""What `crm-sync demo --dialer-only` says if it can't listen; all else is tested as a process."""

import errno
import os

import pytest
import typer
from typer.testing import CliRunner

from simulators.demo.command import demo
from simulators.dialer import StandInDialer


def test_a_port_that_it_may_not_listen_on_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(_: StandInDialer) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(StandInDialer, "start", forbidden)
    app = typer.Typer()
    app.command()(demo)
    ended = CliRunner().invoke(app, ["--dialer-only", "--port", "80"])
    assert ended.exit_code == 1
    assert ended.stderr == f"crm-sync: can't listen on 127.0.0.1:80: {os.strerror(errno.EACCES)}\n"
