"""Functions that can be done without."""

import pytest
from structlog.testing import capture_logs

from worker.core.errors import EnrichmentRejected, EnrichmentUnavailable, FunctionRefused
from worker.vicidial.optional import OptionalFunction

REFUSED = FunctionRefused("not permitted")


class Function:
    """Answers, or fails as told, and counts."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked = 0
        self.now = 0.0

    async def __call__(self) -> str:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return "an answer"

    def optional(self) -> OptionalFunction:
        return OptionalFunction("user_details", "the level", 300.0, clock=lambda: self.now)


async def test_what_may_be_asked_is_asked() -> None:
    function = Function()
    assert await function.optional().ask(function) == "an answer"


@pytest.mark.parametrize("failure", [EnrichmentUnavailable("down"), EnrichmentRejected("what?")])
async def test_a_failure_fails_nothing_and_the_next_event_tries_again(failure: Exception) -> None:
    function = Function(failure)
    optional = function.optional()
    with capture_logs() as logs:
        assert [await optional.ask(function), await optional.ask(function)] == [None, None]
    assert (function.asked, logs) == (2, [])


async def test_what_is_refused_rests_and_is_told_of_once_until_it_is_allowed() -> None:
    function = Function(REFUSED)
    optional = function.optional()
    with capture_logs() as logs:
        for function.now in (0.0, 299.0, 300.0, 301.0):
            assert await optional.ask(function) is None
        assert function.asked == 2
        function.failure, function.now = None, 600.0
        assert [await optional.ask(function), await optional.ask(function)] == ["an answer"] * 2
    assert [line["event"] for line in logs] == ["dialer_extra_refused", "dialer_extra_allowed"]
    assert (logs[0]["function"], logs[0]["error"], logs[0]["null"]) == (
        "user_details",
        "not permitted",
        "the level",
    )


async def test_what_nobody_foresaw_is_not_hidden() -> None:
    function = Function(RuntimeError("a bug"))
    with pytest.raises(RuntimeError):
        await function.optional().ask(function)
