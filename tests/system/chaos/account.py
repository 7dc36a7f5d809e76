"""The account: what was published, what became of each id, and what is wrong with that. Pure."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

DELIVERED: Final = "delivered"
"""The fate of an event that is to reach the CRM; any other fate is the reason of a dead letter."""

BURIED: Final = "delivery_limit"
"""The reason that the broker itself gives for a message that was delivered too often."""


@dataclass(frozen=True, slots=True)
class Published:
    """One event as it was published, and what is to become of it."""

    id: str
    body: bytes
    key: str = "call.ended"
    fate: str = DELIVERED
    call: Mapping[str, object] | None = None
    """What the dialer is to know of its call; `None` if it is to know nothing."""

    @property
    def call_id(self) -> str:
        """The call that it is about."""
        return str(json.loads(self.body)["call_id"])


@dataclass(frozen=True, slots=True)
class Dead:
    """One dead letter."""

    id: str
    reason: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the CRM says of one id."""

    accepted_at: Sequence[float]
    """When it was answered with a 2xx, each time."""
    different: Sequence[str] = ()
    """Its bodies, if they are not all the same."""


@dataclass(slots=True)
class Verdict:
    """What is to be said of one scenario."""

    name: str
    events: int = 0
    lost: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    """What still stands in a queue though its time has come."""
    duplicates: int = 0
    bound: int = 0
    """How many duplicates there may be: what was in flight at a kill or a cut."""
    dead: Counter[str] = field(default_factory=Counter)
    recovered: float | None = None
    """Seconds from the heal to the first event that got through."""
    seconds: float = 0.0
    """Seconds from the heal until everything was accounted for."""
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What must not be, each in a sentence."""


def judge(
    verdict: Verdict,
    published: Collection[Published],
    arrived: Mapping[str, Arrived],
    dead: Sequence[Dead],
    *,
    queued: Collection[str] = (),
    tolerated: Collection[str] = (),
) -> None:
    """Account for every id; `tolerated` are reasons for which any event may have been dead-lettered."""
    letters: dict[str, list[Dead]] = {}
    for each in dead:
        letters.setdefault(each.id, []).append(each)
        verdict.dead[each.reason] += 1
    verdict.events = len(published)
    wrong: Counter[str] = Counter()
    for event in published:
        found, own = arrived.get(event.id), letters.pop(event.id, [])
        wrong.update(_judge_one(event, found, own, tolerated))
        times = len(own) + (0 if found is None else len(found.accepted_at))
        verdict.duplicates += max(0, times - 1)
        if times == 0:
            (verdict.queued if event.id in queued else verdict.lost).append(event.id)
    verdict.wrong += [f"{count} {sentence}" for sentence, count in wrong.items()]
    verdict.wrong += [f"a dead letter that nobody published: {name}" for name in letters]
    strangers = arrived.keys() - {event.id for event in published}
    verdict.wrong += [f"a delivery that nobody published: {name}" for name in sorted(strangers)]
    if verdict.lost:
        verdict.wrong.append(f"{len(verdict.lost)} lost: {verdict.lost[:5]}")
    if verdict.queued:
        verdict.wrong.append(f"{len(verdict.queued)} still queued: {verdict.queued[:5]}")
    if verdict.duplicates > verdict.bound:
        verdict.wrong.append(f"{verdict.duplicates} duplicates, at most {verdict.bound} were in flight")


def _judge_one(
    event: Published, found: Arrived | None, own: Sequence[Dead], tolerated: Collection[str]
) -> Iterator[str]:
    if found is not None and not all(agree(one, other) for one, other in combinations(found.different, 2)):
        yield "came with different bodies"
    if found is not None and found.accepted_at and event.fate != DELIVERED:
        yield f"delivered, though its fate is {event.fate}"
    for letter in own:
        if letter.reason != event.fate and letter.reason not in tolerated:
            yield f"dead-lettered ({letter.reason}), though its fate is {event.fate}"
        if letter.body != event.body:
            yield "dead-lettered with another body"


def agree(one: str, other: str) -> bool:
    """Return whether two bodies of an event differ in nothing but what an optional function did not answer.

    An event that is redelivered is looked up anew (docs/receiving.md, "What is not guaranteed").
    """
    (rest, answers), (other_rest, other_answers) = _split(one), _split(other)
    return rest == other_rest and all(
        None in both or both[0] == both[1] for both in zip(answers, other_answers, strict=True)
    )


def _split(body: str) -> tuple[Any, list[Any]]:
    """Split a body into the rest, and what each optional function answered, `None` if it did not."""
    rest = json.loads(body)
    data = rest["data"]
    if "call" in data:
        return rest, [data["call"].pop("recordings")]
    agent = data["agent"]
    details = [agent.pop(name) for name in ("full_name", "access_level", "user_group")]
    campaigns, ambiguous = agent["campaigns"], agent.pop("campaigns_ambiguous")
    agent["campaigns"] = "-".join(each["campaign_id"] for each in campaigns)  # as the dialer joins them
    known = any(each is not None for each in details)
    named = any(each["name"] is not None for each in campaigns)
    return rest, [details if known else None, (campaigns, ambiguous) if named else None]
