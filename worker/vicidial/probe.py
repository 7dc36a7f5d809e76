"""Asking the dialer questions of our own: whether it works again, and whether one event alone is at fault."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Never

import structlog

from worker.core.errors import EnrichmentUnavailable, LoginRefused, ProcessingError
from worker.vicidial.client import DialerClient
from worker.vicidial.lookups import SingleFlight

ANSWERS_TO_VOUCH = 3
"""Answers in a row that show a dialer to be well: if every other request fails, one may come by chance."""
LOOK_AT_PASSWORD_EVERY = 1.0
"""Seconds until the password file is read again while the dialer refuses what it held."""

_log = structlog.get_logger()


class Prober:
    """Asks the questions that the breakers of the dialer wait for."""

    def __init__(self, client: DialerClient, changed: asyncio.Event) -> None:
        """Take the client, and what is set at each change of a breaker's state."""
        self._client = client
        self._guard = client.guard
        self._breakers = client.guard.breakers
        self._changed = changed
        self._rounds = SingleFlight[str, bool]()
        self._guard.vouches = self.vouches

    async def watch(self) -> Never:
        """Probe whenever a breaker is due, until cancelled."""
        while True:
            self._changed.clear()
            await self.probe_what_is_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_look()):
                    await self._changed.wait()

    async def probe_what_is_due(self) -> None:
        """Ask what the breakers want to be asked now. A password that has changed is due at once."""
        if self._guard.lockout.refusing and self._guard.lockout.ready_in() == 0:
            self._breakers.dialer.probe_now()
        for function in self._breakers.to_probe():
            await self._probe(function)

    async def vouches(self, function: str) -> bool:
        """Return whether the dialer answers our own question to this function, several times in a row.

        Those who want to know it at one time share the questions.
        """
        return await self._rounds.get(function, lambda: self._ask_in_a_row(function))

    async def _ask_in_a_row(self, function: str) -> bool:
        try:
            for _ in range(ANSWERS_TO_VOUCH):
                await self._client.probe(function)
        except ProcessingError:
            return False
        return True

    def _next_look(self) -> float | None:
        if self._guard.lockout.refusing:
            return LOOK_AT_PASSWORD_EVERY
        return self._breakers.next_change_in()

    async def _probe(self, function: str) -> None:
        dialer, lockout = self._breakers.dialer, self._guard.lockout
        if (wait := lockout.ready_in()) > 0:
            dialer.postpone(timedelta(seconds=wait))
            return
        try:
            await self._client.probe(function)
        except LoginRefused:
            dialer.postpone(timedelta(seconds=max(1.0, lockout.ready_in())))
        except ProcessingError:
            pass  # the breakers know
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the probing
            _log.error("dialer_probe_failed", exc_info=error)
            self._breakers.probed_in_vain(
                function, EnrichmentUnavailable("our own question met a bug of ours")
            )
