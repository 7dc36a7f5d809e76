"""One CRM, as the settings describe it: its preset, its login, its client, and what is remembered of it."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from worker.core.errors import DeliveryUnavailable, FailureKind, MappingFailed
from worker.core.scrub import Scrubber
from worker.core.tracing import UNTRACED, Tracing
from worker.crm.answers import Answer, Verdict
from worker.crm.batch import Collector
from worker.crm.client import CrmClient, open_session
from worker.crm.compiled import CompiledPreset, variables
from worker.crm.limits import Limits
from worker.crm.load import compiled
from worker.crm.login import Logins
from worker.crm.memory import Memory
from worker.crm.plan import CompiledStep, Names
from worker.crm.single_flight import SingleFlight
from worker.crm.steps import Access, Done, Engine, HttpRequest, Renew, carry_out, log_in
from worker.settings import Settings

SHORTEST_TOKEN = 12
"""In characters; a shorter result of a login is an id, and no secret."""
TOKENS = 8
"""The tokens of so many logins are never shown: an answer that comes late may repeat an old one."""

_T = TypeVar("_T")
_Talk = Generator[HttpRequest | Renew, Answer | Access, _T]


class CrmSession:
    """Carries out what a preset says, at one CRM."""

    def __init__(
        self,
        preset: CompiledPreset,
        client: CrmClient,
        memory: Memory,
        *,
        refused_wait: timedelta = timedelta(0),
        reread: Callable[[], Mapping[str, Any] | None] | None = None,
        on_secret: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Use a client whose limits heed `memory`.

        Args:
            preset: The preset.
            client: Sends the requests.
            memory: What is remembered from one delivery to the next.
            refused_wait: After a refused login, nobody logs in for so long.
            reread: Returns the values of the preset's settings as their files hold them now, None if they
                can't be read.
            on_secret: Called with each secret that is read again, as no log may show it.
        """
        self.plan = preset.plan
        self.memory = memory
        self._compiled = preset
        self._client = client
        self._collector = Collector(client.send)
        self._searches = SingleFlight[Answer]()
        self._logins = Logins(self._log_in, refused_wait.total_seconds())
        self._reread = reread
        self._refused = False
        self._on_secret = on_secret
        self._tokens: deque[str] = deque(maxlen=TOKENS)
        self.scrub = Scrubber(self._secrets())

    def names(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the templates may use of a payload. Raises `MappingFailed`."""
        return variables(payload, self._compiled)

    async def deliver(self, names: Names, progress: str | None = None) -> Done:
        """Carry out the steps for one event. Raises as `carry_out` does."""
        with self._noting_refusals():
            access = await self._logins.get()
            talk = carry_out(
                self.plan, names, access, self.memory, progress=progress, scrub=self.scrub.beginning
            )
            return await self._hold(talk)

    async def engine(self) -> Engine:
        """Log in, and return what does single steps without a payload. Raises `DeliveryUnavailable`."""
        names = {"settings": self._compiled.settings}
        return Engine(self.plan, names, await self._logins.get(), self.memory, scrub=self.scrub.beginning)

    async def ask(self, engine: Engine, step: CompiledStep) -> tuple[Answer, Verdict]:
        """Send the request of a step. Return the answer and what it means.

        Raises:
            DeliveryUnavailable: There is no answer.
            MappingFailed: The request can't be written.
        """
        answer, verdict, _ = await self._hold(engine.ask(step))
        return answer, verdict

    async def do(self, engine: Engine, step: CompiledStep) -> Mapping[str, Any]:
        """Do a step. Return its results, which the steps after it can use.

        Raises:
            DeliveryUnavailable: It can't be done now, or the CRM refuses us.
            DeliveryRejected: The CRM does not accept it.
            MappingFailed: The request can't be written.
        """
        results: Mapping[str, Any] = await self._hold(engine.do(step))
        engine.names[step.name] = results
        return results

    async def close(self) -> None:
        """End what is under way."""
        await self._collector.close()
        await self._searches.close()
        await self._logins.close()

    async def _hold(self, talk: _Talk[_T]) -> _T:
        """Hold a conversation: do what it asks for, until it ends."""
        try:
            wanted = next(talk)
            while True:
                try:
                    reply = await self._reply(wanted)
                except (DeliveryUnavailable, MappingFailed) as error:
                    wanted = talk.throw(error)
                else:
                    wanted = talk.send(reply)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            talk.close()

    async def _reply(self, wanted: HttpRequest | Renew) -> Answer | Access:
        if isinstance(wanted, Renew):
            return await self._logins.renew(wanted.access)
        if wanted.batch is not None:
            return await self._collector.send(wanted, wanted.batch)
        if not wanted.sharable:
            return await self._client.send(wanted)
        key = repr((wanted.method, wanted.url, wanted.query, wanted.body, wanted.form, wanted.headers))
        answer, begun = await self._searches.do(key, lambda: self._client.send(wanted))
        return answer if begun else replace(answer, reported=True)

    async def _log_in(self) -> Access:
        names = {"settings": self._compiled.settings}
        access = await self._hold(log_in(self.plan, names, self.memory, scrub=self.scrub.beginning))
        self._tokens += [
            value
            for value in access.login.values()
            if isinstance(value, str) and len(value) >= SHORTEST_TOKEN and "://" not in value
        ]
        self.scrub = Scrubber([*self._secrets(), *self._tokens])
        return access

    def refresh(self) -> None:
        """Read the secrets again if the CRM has refused us since they were read."""
        if not self._refused or self._reread is None:
            return
        self._refused = False
        settings = self._reread()
        if settings is not None and settings != self._compiled.settings:
            self._compiled = replace(self._compiled, settings=settings)
            self._logins.forget()
            self.scrub.learn(*self._secrets())
            for secret in self._secrets():
                self._on_secret(secret)

    @contextmanager
    def _noting_refusals(self) -> Iterator[None]:
        try:
            yield
        except DeliveryUnavailable as error:
            self._refused = self._refused or error.kind is FailureKind.REFUSED
            raise

    def _secrets(self) -> list[str]:
        declared, settings = self._compiled.preset.settings, self._compiled.settings
        values = [settings.get(name) for name, each in declared.items() if each.secret]
        return [value for value in values if isinstance(value, str) and value]


@asynccontextmanager
async def open_crm(
    settings: Settings,
    *,
    connections: int = 4,
    observe: Callable[[str], None] = lambda _: None,
    on_secret: Callable[[str], None] = lambda _: None,
    tracing: Tracing = UNTRACED,
) -> AsyncIterator[CrmSession]:
    """Open all that talks to the CRM of the settings.

    Raises:
        SettingsError: The preset or its settings can't be used.
    """
    preset = compiled(settings.sink.crm, settings.vicidial.url)
    memory = Memory()
    limits = Limits(preset.preset.limits, memory.wait)

    def reread() -> Mapping[str, Any] | None:
        try:
            return {**preset.settings, **settings.sink.crm.reread()}
        except ValueError:
            return None

    async with open_session(settings.sink.timeout, connections) as http:
        client = CrmClient(http, limits, settings.sink.timeout, observe=observe, tracing=tracing)
        session = CrmSession(
            preset,
            client,
            memory,
            refused_wait=settings.circuit_breakers.refused_probe,
            reread=reread,
            on_secret=on_secret,
        )
        try:
            yield session
        finally:
            await session.close()
