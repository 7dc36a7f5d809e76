"""What the enricher makes of a shift's calls when all of them are over: each field as the dialer knows it."""

import json
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, StandInDialer
from tests.adapters.dialer_client import make_breakers
from tests.core.inbounds import inbound
from tests.system.calls import Case, cases, judge_call, may_be_null, told_wrong
from worker.core.events import decode
from worker.core.pipeline import build_payload
from worker.settings import VicidialSettings
from worker.vicidial.client import DialerClient, open_session
from worker.vicidial.clock import DialerClock
from worker.vicidial.enricher import VicidialEnricher

REAL_PACE = {"seconds": 3600, "rings": [2, 20], "talks": [5, 300], "wraps_up": [5, 120]}
BRISK_PACE = {"seconds": 60}


class Jumping:
    """A clock of a dialer that is set forward."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Jumping:
    return Jumping()


@pytest.fixture
async def dialer(clock: Jumping) -> AsyncIterator[StandInDialer]:
    began = time.time() - 7200
    async with StandInDialer(clock=clock, wall=lambda: began + clock.now, keep_requests=False) as running:
        running.world.utc_offset = 5 * 3600 + 1800
        yield running


@pytest.fixture
async def enricher(dialer: StandInDialer) -> AsyncIterator[VicidialEnricher]:
    settings = VicidialSettings(url=dialer.url, user=DEFAULT_USER, password=SecretStr(DEFAULT_PASSWORD))
    async with open_session(settings) as session:
        client = DialerClient(settings, session, make_breakers())
        yield VicidialEnricher(client, DialerClock(None, client.version), settings)


@pytest.mark.no_cover
@pytest.mark.parametrize("pace", [BRISK_PACE, REAL_PACE], ids=["brisk", "real"])
@pytest.mark.parametrize("seed", range(2))
async def test_every_field_of_every_call_is_true(
    seed: int, pace: dict[str, object], dialer: StandInDialer, clock: Jumping, enricher: VicidialEnricher
) -> None:
    truths = dialer.control({"shift": {"seed": seed, **pace}})["shift"]
    clock.now = max(each["disposed_at"] for each in truths) - dialer.time_of_day(0.0) + 60
    played: list[Case] = []
    for case in cases(truths, random.Random(seed), dialer.time_of_day(0.0), 60):  # noqa: S311 - a plan
        if case.is_answered:
            seen = datetime.fromtimestamp(case.publish_at, UTC)
            event = decode(inbound(case.event, first_seen=seen))
            payload = build_payload(event, await enricher.enrich(event, accept_incomplete=False))
            judge_call(case, json.loads(payload.body)["data"])
            played.append(case)
    assert len(played) > 400
    assert "\n".join(told_wrong(played)) == ""
    assert [each.event for each in played if set(each.nulls) - may_be_null(each)] == []
