"""Functions that can be done without: not every API user may use them, and some builds lack them."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from worker.core.errors import FunctionRefused, ProcessingError

_log = structlog.get_logger()

_T = TypeVar("_T")


class OptionalFunction:
    """One such function: what it would tell is `None` where it can't be asked, and no event fails for it."""

    def __init__(
        self,
        function: str,
        loses: str,
        again_after: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is null without it, in words, and the seconds until a refused one is tried again."""
        self._function = function
        self._loses = loses
        self._again_after = again_after
        self._clock = clock
        self._refused_until: float | None = None

    async def ask(self, look_up: Callable[[], Awaitable[_T]]) -> _T | None:
        """Give what `look_up` gives, or `None` where it failed, or was refused a short time ago.

        A refusal is logged once, and once more when it ends.
        """
        if self._refused_until is not None and self._clock() < self._refused_until:
            return None
        try:
            answer = await look_up()
        except FunctionRefused as error:
            if self._refused_until is None:
                _log.warning(
                    "dialer_extra_refused", function=self._function, error=str(error), null=self._loses
                )
            self._refused_until = self._clock() + self._again_after
            return None
        except ProcessingError:
            return None  # the request's own log line says what went wrong
        if self._refused_until is not None:
            _log.info("dialer_extra_allowed", function=self._function)
            self._refused_until = None
        return answer
