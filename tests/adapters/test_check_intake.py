"""`crm-sync check` asks the intake to accept a test event that goes nowhere."""

from pathlib import Path
from typing import Any

import pytest

from tests.adapters.intake import Intake, open_intake
from tests.adapters.raw import closed_port
from worker.check.finding import Finding, Level
from worker.check.intake import check_intake
from worker.intake.tls import Certificate
from worker.settings import Settings


async def check(port: int, token_file: Path, **changed: Any) -> Finding:  # noqa: ANN401
    """Check an intake by the settings that a worker beside it has."""
    settings = Settings.model_validate(
        {
            "vicidial": {"url": "https://dialer.example/api.php", "user": "api", "password": "secret"},
            "sink": {"url": "https://crm.example/"},
            "intake": {"port": port, "token_files": [token_file], **changed},
        }
    )
    (finding,) = [each async for each in check_intake(settings)]
    return finding


def of(intake: Intake) -> tuple[int, Path]:
    return intake.port, intake.token_file


async def test_an_intake_that_accepts_events_is_well(tmp_path: Path) -> None:
    async with open_intake(tmp_path) as intake:
        found = await check(*of(intake), host="0.0.0.0")  # noqa: S104 - as in a container
        assert (found.level, found.advice) == (Level.OK, ())
        assert found.text == f"http://127.0.0.1:{intake.port} accepts events"
        assert (intake.feed.published, intake.spool.waiting) == ([], 0)


async def test_one_without_a_broker_still_accepts_events(tmp_path: Path) -> None:
    async with open_intake(tmp_path) as intake:
        intake.feed.available.clear()
        found = await check(*of(intake))
    assert (found.level, found.advice) == (Level.WARNING, ("away",))


async def test_one_that_can_accept_nothing_fails(tmp_path: Path) -> None:
    async with open_intake(tmp_path, spool_size=100) as intake:
        intake.feed.available.clear()
        found = await check(*of(intake))
    assert (found.level, found.advice) == (Level.FAILED, ("away; the spool is full: 100 bytes",))


async def test_one_that_does_not_know_the_token_fails_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("another-token-of-tests")
    async with open_intake(tmp_path) as intake:
        found = await check(intake.port, tmp_path / "other")
    assert found.level is Level.FAILED
    assert "answered 401" in found.text
    assert "another-token" not in str(found)


async def test_one_that_is_not_there_and_a_token_that_is_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another-token-of-tests")
    for host in ("127.0.0.1", "localhost", "::1"):
        found = await check(closed_port(), tmp_path / "token", host=host)
        assert (found.level, "no answer from" in found.text) == (Level.FAILED, True)
    found = await check(1, tmp_path / "none")
    assert (found.level, found.text) == (Level.FAILED, "its token can't be read")


@pytest.mark.parametrize("host", ["127.0.0.1"])
async def test_one_with_tls_is_asked_by_tls(tmp_path: Path, certificate: Path, host: str) -> None:
    async with open_intake(tmp_path, tls=Certificate(certificate, certificate).context) as intake:
        found = await check(*of(intake), host=host, tls_certificate=certificate, tls_key=certificate)
    assert found.level is Level.OK
