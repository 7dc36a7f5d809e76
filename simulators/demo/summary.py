"""What is said at the end: what became of all events, what the CRM got, and what to do next."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from simulators.crm import Received
from simulators.demo.progress import Row
from simulators.demo.scenario import Delivered

_MEANS = {
    "invalid_event": "it can't be understood; its producer has to correct it",
    "not_found": "the dialer still did not know it when time was up",
    "rejected_by_dialer": "the dialer refuses the id; no retry would help",
    "rejected_by_sink": "the CRM refuses it; replay it when that is fixed",
}
_COMMANDS = (
    ("crm-sync dead-letters list", "shows such letters"),
    ("crm-sync dead-letters replay --reason rejected_by_sink", "tries them anew"),
)
_WIDTH = 78


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter as the broker holds it."""

    reason: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that can be known at the end.

    `letters` are the dead letters and `bodies` what was published, both by event id.
    """

    rows: Sequence[Row]
    received: Sequence[Received]
    letters: Mapping[str, Letter]
    bodies: Mapping[str, bytes]
    dialer_requests: int
    worker_status: int
    seconds: float


def differences(result: Result) -> list[str]:
    """Name what did not end as its case says; empty if all did."""
    found = [f"{row.case.who}: {problem}" for row in result.rows for problem in _problems(row, result)]
    if result.worker_status != 0:
        found.append(f"the worker ended with status {result.worker_status} instead of 0")
    if (unsigned := sum(not each.verified for each in result.received)) > 0:
        found.append(f"{unsigned} of the deliveries had no good signature")
    return found


def _problems(row: Row, result: Result) -> Iterable[str]:
    case = row.case
    got = [each for each in result.received if each.id == case.event_id]
    accepted = [each for each in got if each.status == 200]
    letter = result.letters.get(case.event_id)
    if not row.over:
        yield "it came to no end"
    if isinstance(case.ending, Delivered):
        if letter is not None:
            yield f"it is in the dead letters as {letter.reason}"
        if len(accepted) < case.published:
            yield f"the CRM accepted it {len(accepted)} times instead of {case.published}"
        for each in accepted:
            yield from _wrong_fields(each.json, case.ending.shows)
    else:
        if accepted:
            yield "the CRM accepted it"
        yield from _wrong_letter(letter, Letter(case.ending.reason, result.bodies.get(case.event_id, b"")))
    for status in set(case.crm_says) - {each.status for each in got}:
        yield f"the CRM never answered {status}"


def _wrong_letter(found: Letter | None, wanted: Letter) -> Iterable[str]:
    if found is None:
        yield f"it is not in the dead letters; expected {wanted.reason}"
    elif found.reason != wanted.reason:
        yield f"it is in the dead letters as {found.reason} instead of {wanted.reason}"
    elif found.body != wanted.body:
        yield "its dead letter is not the body that was published"


def _wrong_fields(payload: Any, shows: Mapping[str, Any]) -> Iterable[str]:  # noqa: ANN401 - any JSON value
    for path, wanted in shows.items():
        found: Any = payload["data"]
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != wanted:
            yield f"{path} is {found!r} instead of {wanted!r}"


def summary(result: Result) -> Text:
    """Sum up what happened."""
    wrong = differences(result)
    messages = sum(row.received for row in result.rows)
    verdict = (
        (f"{len(wrong)} things did not end as they should", "bold red")
        if wrong
        else ("Every event ended as it should", "bold green")
    )
    lines = [
        Text(""),
        Text.assemble(
            verdict, f": {len(result.rows)} events in {messages} messages, {result.seconds:.0f} seconds."
        ),
        *(Text(f"   ✗ {each}", "red") for each in wrong),
        Text(""),
        *_delivered(result),
        *_dead(result),
        *_dialer(result),
    ]
    return Text("\n").join(lines)


def _delivered(result: Result) -> Iterable[Text]:
    rows = [row for row in result.rows if row.over and not row.dead]
    waited = sum(1 for row in rows if row.retries)
    accepted = Counter(each.id for each in result.received if each.status == 200)
    repeats = sum(count - 1 for count in accepted.values())
    verified = sum(each.verified for each in result.received)
    of = "all" if verified == len(result.received) else f"{verified} of"
    yield Text.assemble(
        (f"  {len(rows):>2} delivered", "green"), f", {waited} of them after a wait or a retry"
    )
    yield Text(f"     the CRM verified the signatures of {of} {len(result.received)} requests")
    yield Text(f"     and dropped {repeats} repeat{'' if repeats == 1 else 's'} by its webhook-id")


def _dead(result: Result) -> Iterable[Text]:
    reasons = Counter(letter.reason for letter in result.letters.values())
    yield Text.assemble((f"  {len(result.letters):>2} in the dead letters", "red"), ", kept byte for byte")
    for reason, count in sorted(reasons.items()):
        yield Text.assemble(f"     {count} ", (f"{reason:<18}", "red"), f"  {_MEANS.get(reason, '')}")
    for command, does in _COMMANDS:
        yield Text.assemble("     ", (f"{command:<54}", "cyan"), f"  {does}")


def _dialer(result: Result) -> Iterable[Text]:
    other = sum(1 for row in result.rows if row.case.dialect == "tutorial" and row.known)
    yield Text(f"  {result.dialer_requests:>2} requests to the dialer")
    yield Text(f"     {other} answered in the dialect of the tutorials, the rest as a real VICIdial")
    yield Text("     does; the worker recognizes both by itself")


def sample(result: Result, event_id: str) -> Text:
    """Show what the CRM got for one call, without what is null."""
    got = next(each for each in result.received if each.id == event_id and each.status == 200)
    data = got.json["data"]
    call = {name: value for name, value in data["call"].items() if value is not None}
    start = '            "call": {'
    fields = textwrap.wrap(
        # A field must not be torn apart: its own spaces are hidden from the wrapping.
        ", ".join(
            f"{json.dumps(name)}: {json.dumps(value)}".replace(" ", "\0") for name, value in call.items()
        ),
        width=_WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
    top = json.dumps({"type": got.json["type"], "timestamp": got.json["timestamp"]})
    inner = json.dumps({"event_id": data["event_id"], "final": data["final"]})
    lines = [
        f"   webhook-id: {got.id}",
        f"   webhook-signature: {got.headers['webhook-signature'][:24]}…",
        f"   {top[:-1]},",
        f'    "data": {inner[:-1]},',
        *("\n".join(fields).replace("\0", " ") + "},").splitlines(),
        '            "event": {…as it was published…}}}',
    ]
    title = "What the CRM got for the call that was still going on"
    return Text.assemble((f"\n{title}", "bold"), " (nulls left out)\n", "\n".join(lines))


def what_next() -> Text:
    """Return what to do after the demonstration."""
    return Text.assemble(
        ("\nWhat next\n", "bold"),
        "   1. Set your broker, dialer and CRM: config/webhook.yaml names every setting.\n",
        "   2. ",
        ("crm-sync check", "cyan"),
        "   checks whether each can be reached and lets you in.\n",
        "   3. ",
        ("crm-sync run", "cyan"),
        "     does to your events what you have just seen.",
    )
