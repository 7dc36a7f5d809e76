"""Carry out the steps of a preset: which request comes next, and what its answer leads to.

Everything here is pure. A generator yields requests, and whoever drives it sends the answers in, or throws
the error why there is none. So the same code delivers, and shows what it would deliver.

What is done survives a retry of the event as its *progress*, which travels on the copy. A step in it is not
repeated. Once the step `record` is done, the payload is delivered: what fails later is tried again, but never
makes a dead letter.
"""

import ipaddress
import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from worker.core.errors import (
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    FailureKind,
    MappingFailed,
    ProcessingError,
    SinkLoginRefused,
)
from worker.core.scrub import printable
from worker.crm.answers import (
    Answer,
    Verdict,
    apply_rule,
    as_duration,
    judge,
    own_result,
    plain,
    read_template,
)
from worker.crm.memory import Memory
from worker.crm.plan import RECORD, Compiled, CompiledBatch, CompiledLogin, CompiledStep, Names, Plan
from worker.crm.preset import Means
from worker.crm.progress import Progress

EXCERPT = 500
"""How much of the CRM's reason is shown, in characters."""
DEFAULT_LIFETIME = timedelta(hours=1)

_CALL = "call.enriched"
_NO_CONTENT = 204
_OF_ONE = (Means.BAD, Means.DUPLICATE)
"""What the answer to a whole batch can only mean of some of its items."""
_MAY_FAIL = (DeliveryUnavailable, DeliveryRejected, MappingFailed)
_TROUBLE = {Means.BUSY: FailureKind.BUSY, Means.QUOTA: FailureKind.BUSY, Means.RETRY: FailureKind.OUTAGE}


@dataclass(frozen=True, slots=True)
class Access:
    """The present login: its results, and the address of the API."""

    login: Mapping[str, Any]
    url: str
    lifetime: timedelta | None = None
    """None: there is no login that could be renewed."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request to the CRM. Query, headers and form are texts."""

    step: str
    method: str
    url: str
    """The address without the query."""
    path: str
    """As the preset has it: the part of the address behind that of the API."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None
    form: Mapping[str, str] | None = None
    of: str | None = None
    batch: CompiledBatch | None = None
    """Set if it may be sent together with others."""
    sharable: bool = False
    """Whether its answer is good for all deliveries that send the same request at the same time."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Asks for another login than this one, which the CRM does not accept any more."""

    access: Access


@dataclass(frozen=True, slots=True)
class Done:
    """A delivery that is done."""

    outcome: str
    """`created`, `updated`, `duplicate` or `skipped`; of an agent's event `done`."""
    receipt: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    """Why steps were left out that can be done without."""
    asked: bool = field(default=True, compare=False)
    """Whether the CRM was asked at all."""


Conversation = Generator[HttpRequest | Renew, Answer | Access, Done]
_Talk = Generator[HttpRequest | Renew, Answer | Access, Any]


def carry_out(
    plan: Plan,
    names: Names,
    access: Access,
    memory: Memory,
    *,
    progress: str | None = None,
    scrub: Callable[[str], str] = str,
    now: Callable[[], float] = time.time,
) -> Conversation:
    """Carry out the steps for one event.

    Args:
        plan: The preset.
        names: What its templates may use of the payload and the settings.
        access: The present login.
        memory: What is remembered from one delivery to the next.
        progress: What earlier attempts did.
        scrub: Removes secrets from what the CRM says.
        now: Returns the seconds since the epoch.

    Raises:
        DeliveryUnavailable: A step could not be done now.
        DeliveryRejected: The CRM will never accept a step's request.
        MappingFailed: A template can't be rendered.
        DeliveryIncomplete: The record is written, but another step is not done.
    """
    if plan.skip_when is not None and names["type"] == _CALL and plan.skip_when.render(names):
        return Done("skipped", {}, asked=False)
    steps = plan.on_call if names["type"] == _CALL else plan.on_agent
    if not steps:
        return Done("skipped", {}, asked=False)
    engine = Engine(plan, names, access, memory, scrub=scrub, now=now)
    return (yield from _Delivery(engine, steps, Progress.read(plan.crm, progress)).run())


class _Delivery:
    """The steps for one event, and how far they got."""

    def __init__(self, engine: "Engine", steps: Iterable[CompiledStep], progress: Progress) -> None:
        self._engine = engine
        self._steps = steps
        self._results = dict(progress.results)
        engine.alone = progress.alone
        self._missing: list[ProcessingError] = []

    def run(self) -> Conversation:
        engine = self._engine
        for step in self._steps:
            engine.names[step.name] = self._results.get(step.name, {})
            if step.name in self._results:
                continue
            try:
                found = yield from engine.do(step)
            except _MAY_FAIL as error:
                self._failed(step, error)
            else:
                engine.names[step.name] = found
                if step.name == RECORD or any(value is not None for value in found.values()):
                    self._results[step.name] = found
        later = [str(error) for error in self._missing if isinstance(error, DeliveryUnavailable)]
        if later:
            raise self._with_progress(DeliveryIncomplete(f"delivered, but not all of it: {'; '.join(later)}"))
        return self._done()

    def _failed(self, step: CompiledStep, error: ProcessingError) -> None:
        """Note what failed, or raise it."""
        if step.soft and not isinstance(error, SinkLoginRefused):
            self._missing.append(error)
            return
        self._with_progress(error)
        if RECORD not in self._results:
            raise error
        if isinstance(error, DeliveryUnavailable):
            error.delivered = True
            raise error
        raise self._with_progress(DeliveryIncomplete(f"delivered, but not all of it: {error}")) from error

    def _with_progress(self, error: ProcessingError) -> ProcessingError:
        progress = Progress(self._results, alone=self._engine.alone)
        error.progress = progress.written(self._engine.plan.crm)
        return error

    def _done(self) -> Done:
        engine = self._engine
        left_out = tuple(str(error) for error in self._missing)
        if engine.names["type"] != _CALL:
            receipt = plain(read_template(engine.plan.agent_receipt, engine.names))
            return Done("done", receipt, left_out, engine.asked)
        receipt = plain(read_template(engine.plan.receipt, engine.names))
        record = engine.names[RECORD]
        if record.get("duplicate") or RECORD in engine.skipped:
            outcome = "duplicate"
        else:
            outcome = "updated" if receipt.get("new") is False else "created"
        return Done(outcome, receipt, left_out, engine.asked)


class Engine:
    """Does single steps, one after another; `names` grows with their results."""

    def __init__(
        self,
        plan: Plan,
        names: Names,
        access: Access,
        memory: Memory,
        *,
        scrub: Callable[[str], str] = str,
        now: Callable[[], float] = time.time,
        is_login: bool = False,
    ) -> None:
        """See `carry_out`. The steps of a login may have whole addresses, elsewhere than the API's."""
        self.plan = plan
        self.names = {**names, "login": access.login}
        self.skipped: set[str] = set()
        self.asked = False
        self.alone = False
        """Whether an item of a batch is sent alone."""
        self._access = access
        self._renewed = False
        self._memory = memory
        self._scrub = scrub
        self._now = now
        self._is_login = is_login

    @property
    def url(self) -> str:
        """The address of the API."""
        return self._access.url

    def do(self, step: CompiledStep) -> Generator[HttpRequest | Renew, Answer | Access, dict[str, Any]]:
        """Do a step. Return its results, empty if it is left out."""
        if step.when is not None and not step.when.render(self.names):
            self.skipped.add(step.name)
            return {}
        key = None if step.cache is None else step.cache.by.render(self.names)
        if step.cache is not None and key is not None:
            known = self._memory.recall(step.cache.name, str(key))
            if known is not None:
                return dict(known)
        results: dict[str, Any] = yield from self._request_results(step, sharable=key is not None)
        if step.cache is not None and key is not None:
            found = any(value is not None for value in results.values())
            time_to_live = step.cache.found if found else step.cache.missing
            self._memory.keep(step.cache.name, str(key), results, time_to_live)
        if step.learn is not None:
            names = {**self.names, step.name: results}
            key, value = (read_template(each, names) for each in (step.learn.key, step.learn.value))
            self.plan.tables.learn(step.learn.table, key, value)
        return results

    def _request_results(self, step: CompiledStep, *, sharable: bool) -> _Talk:
        answer, verdict, result = yield from self.ask(step, sharable=sharable)
        if verdict.means not in (Means.DONE, Means.PARTIAL, Means.DUPLICATE):
            self._raise(step, answer, verdict)
        if verdict.wait is not None:
            self._memory.pause(None, verdict.wait)
        taken = verdict.results or read_template(step.take, answer.names(self.names, result))
        return plain(taken) | ({"duplicate": True} if verdict.means is Means.DUPLICATE else {})

    def ask(self, step: CompiledStep, *, sharable: bool = False) -> _Talk:
        """Send a step's request. Return the answer, the verdict, and the result of the item in a batch.

        A request whose login is no longer valid is sent once more with a new one, of which there is one in a
        delivery, and a request that failed as a part of a batch is sent once more alone.
        """
        alone = self.alone
        while True:
            request = self.request(step, alone=alone, sharable=sharable)
            self.asked = True
            try:
                answer = cast("Answer", (yield request))
            except DeliveryUnavailable as error:
                self.alone = self.alone or (step.batch is not None and error.kind is FailureKind.OUTAGE)
                raise
            verdict, result = self._judge(step, answer)
            together = answer.shared is not None and answer.shared.count > 1
            if verdict.means is Means.TOKEN and self._access.lifetime is not None and not self._renewed:
                self._access = cast("Access", (yield Renew(self._access)))
                self.names["login"] = self._access.login
                self._renewed = True
            elif verdict.means in _OF_ONE and verdict.whole and together:
                alone = True
            else:
                self.alone = self.alone or (step.batch is not None and verdict.means is Means.RETRY)
                return answer, verdict, result

    def request(self, step: CompiledStep, *, alone: bool = False, sharable: bool = False) -> HttpRequest:
        """Render the request of a step."""
        request = step.request
        path = _text(request.path.render(self.names), f"{step.name}.path")
        if not {".", ".."}.isdisjoint(path.partition("?")[0].split("/")):
            raise MappingFailed(f"{step.name}.path has a part that is . or .., which is no name")
        batch = step.batch
        if batch is not None and alone:
            batch = replace(batch, max=1)
        return HttpRequest(
            step=step.name,
            method=request.method,
            url=self._url(path),
            path=path,
            query=self._texts(request.query, f"{step.name}.query"),
            headers=self._headers(step),
            body=None if request.body is None else request.body.render(self.names),
            form=None if request.form is None else self._texts(request.form, f"{step.name}.form"),
            of=step.of,
            batch=batch,
            sharable=sharable,
        )

    def _url(self, path: str) -> str:
        if self._is_login and path.startswith(("https://", "http://")):
            return checked_address(path)
        return f"{self._access.url}/{path.removeprefix('/')}"

    def _headers(self, step: CompiledStep) -> dict[str, str]:
        headers = {
            **self._texts(self.plan.headers, "headers"),
            **self._texts(step.request.headers, f"{step.name}.headers"),
        }
        for name, value in headers.items():
            if not (name + value).isprintable():
                raise MappingFailed(f"{step.name}: the header {name!r} has a line break or control character")
        return headers

    def _texts(self, template: Compiled | None, where: str) -> dict[str, str]:
        found = None if template is None else template.render(self.names)
        return {str(name): _text(value, f"{where}.{name}") for name, value in (found or {}).items()}

    def _judge(self, step: CompiledStep, answer: Answer) -> tuple[Verdict, Any]:
        rules = (*step.request.rules, *self.plan.rules)
        verdict = judge(rules, answer, self.names, now=self._now())
        if verdict.means is Means.TOKEN and not verdict.by_rule and self._access.lifetime is None:
            return replace(verdict, means=Means.REFUSED), None
        if verdict.means not in (Means.DONE, Means.PARTIAL):
            return verdict, None
        if step.batch is not None:
            return self._judge_item(step.batch, answer, verdict)
        has_to_be_json = step.take is not None and not verdict.by_rule and answer.status != _NO_CONTENT
        if has_to_be_json and not answer.is_json:
            return Verdict(Means.RETRY, say=_why_unknown(answer)), None
        return verdict, None

    def _judge_item(self, batch: CompiledBatch, answer: Answer, whole: Verdict) -> tuple[Verdict, Any]:
        result = own_result(batch, answer, self.names)
        if result is None:
            say = "it has no result for this item of the batch" if answer.is_json else _why_unknown(answer)
            return Verdict(Means.RETRY, say=say, whole=not answer.is_json), None
        reading = answer.names(self.names, result)
        for rule in batch.each:
            if (verdict := apply_rule(rule, answer.status, reading)) is not None:
                return replace(verdict, whole=False), result
        return Verdict(Means.DONE, whole.wait, whole=False), result

    def _raise(self, step: CompiledStep, answer: Answer, verdict: Verdict) -> NoReturn:
        said = verdict.say
        if said is None and verdict.means is Means.BAD:
            said = answer.text
        reason = f": {printable(self._scrub(said))[:EXCERPT]}" if said else ""
        text = f"the CRM answered {answer.status} to the step {step.name}{reason}"
        if verdict.means is Means.BAD:
            raise DeliveryRejected(text)
        kind = _TROUBLE.get(verdict.means, FailureKind.REFUSED)
        wait = None
        if kind is FailureKind.BUSY:
            wait = verdict.wait or timedelta(0)
            self._memory.pause(None if verdict.means is Means.QUOTA else step.of, wait)
        elif verdict.means is Means.TOKEN:
            raise _TokenRefused(text)
        error = DeliveryUnavailable(text, kind, wait, answered=True)
        error.shared = answer.reported and verdict.whole
        raise error


class _TokenRefused(DeliveryUnavailable):
    """The login is not accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.REFUSED, answered=True)


def _text(value: object, where: str) -> str:
    """Return a value as it stands in a path, a query, a header or a form."""
    if isinstance(value, str):
        return value
    if value is None:
        raise MappingFailed(f"{where} is null")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- login


def log_in(
    plan: Plan,
    names: Names,
    memory: Memory,
    *,
    scrub: Callable[[str], str] = str,
    now: Callable[[], float] = time.time,
) -> Generator[HttpRequest | Renew, Answer | Access, Access]:
    """Log in; without a login in the preset, only render the address.

    A step that answers `token` has all steps done once more: what the first of them was given, such as a
    challenge, may be worth nothing any more.

    Raises:
        SinkLoginRefused: The CRM refuses the login, or what it answers can't be used.
        DeliveryUnavailable: The login can't be made now.
    """
    try:
        start = Access({}, checked_address(plan.url.render(names)))
        if plan.login is None:
            return start
        try:
            engine = yield from _login_steps(plan, plan.login, names, start, memory, scrub, now)
        except _TokenRefused:
            engine = yield from _login_steps(plan, plan.login, names, start, memory, scrub, now)
        return _access(plan.login, engine, start.url)
    except MappingFailed as error:  # of no event: it must not make dead letters
        raise SinkLoginRefused(f"the login can't be made: {error}") from error
    except DeliveryRejected as error:
        raise SinkLoginRefused(f"the login is refused: {error}") from error
    except DeliveryUnavailable as error:
        if error.kind is FailureKind.REFUSED:
            raise SinkLoginRefused(f"the login is refused: {error}") from error
        raise


def _login_steps(
    plan: Plan,
    login: CompiledLogin,
    names: Names,
    start: Access,
    memory: Memory,
    scrub: Callable[[str], str],
    now: Callable[[], float],
) -> Generator[HttpRequest | Renew, Answer | Access, Engine]:
    bare = replace(plan, headers=None)  # the headers of the preset need the login
    engine = Engine(bare, names, start, memory, scrub=scrub, now=now, is_login=True)
    for step in login.steps:
        engine.names[step.name] = yield from engine.do(step)
    return engine


def _access(login: CompiledLogin, engine: Engine, url: str) -> Access:
    taken = plain(login.take.render(engine.names))
    if all(value is None for value in taken.values()):
        raise MappingFailed("the answer has nothing of what is taken from it, such as a token")
    if not all(value.isprintable() for value in taken.values() if isinstance(value, str)):
        raise MappingFailed("the answer has a line break or control character in a token")
    if login.url is not None:
        said = login.url.render({**engine.names, "login": taken})
        if said is not None:
            url = checked_address(said, hosts=(*login.hosts, urlsplit(url).hostname or ""))
    lifetime = as_duration(login.lifetime.render({**engine.names, "login": taken}))
    return Access(taken, url, lifetime or DEFAULT_LIFETIME)


def checked_address(said: object, *, hosts: Iterable[str] | None = None) -> str:
    """Return an address without the slash at its end.

    Raises `MappingFailed` if it is not https, unless it is on this machine, or its host is none of `hosts`
    nor below one.
    """
    url = str(said).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise MappingFailed("the address of the CRM can't be read") from error
    if not host or parts.query or parts.fragment or "@" in parts.netloc or not url.isprintable():
        raise MappingFailed("the address of the CRM is none such as https://crm.example")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise MappingFailed(f"the address of the CRM at {host} must begin with https://")
    allowed = None if hosts is None else [each.lower().lstrip(".") for each in hosts if each]
    if allowed is not None and not any(host == each or host.endswith(f".{each}") for each in allowed):
        raise MappingFailed(
            f"the login names {host} as the CRM's host, which is none of {', '.join(allowed)}"
        )
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _why_unknown(answer: Answer) -> str:
    encoding = answer.headers.get("content-encoding", "")[:20]
    what = (
        "is no JSON"
        if answer.text or not encoding
        else f"could not be decoded; it is encoded as {encoding!r}"
    )
    return f"its body {what}, so that the outcome is unknown"
