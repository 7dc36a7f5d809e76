"""Which campaigns a dash-joined list names, and what they are called.

VICIdial joins an agent's campaigns with dashes, and a campaign's id may hold
dashes itself, and even begin with one: ``X-ALL--LEAD`` may be ``X-ALL`` and
``-LEAD``. The list of all campaigns tells where one ends and the next begins.

That list lacks the campaigns that the API user's group may not see, while an
agent's list has them: ``A-B`` may be one such campaign, although there are ``A``
and ``B``. `hidden` names what such a campaign could be called.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from worker.core.records import AgentEnrichment, Campaign
from worker.vicidial.extras import KnownCampaign

LONGEST_ID = 8
"""The longest id of a campaign in VICIdial's database: `vicidial_campaigns.campaign_id VARCHAR(8)`."""
_MOST_DASHES = 2000
_STEPS = 2000
"""How many pieces are tried before a list is called ambiguous."""

_DASH = re.compile("-")


def resolve(found: AgentEnrichment, known: Mapping[str, KnownCampaign] | None) -> AgentEnrichment:
    """Name an agent's campaigns, and split its joined list as the known campaigns say.

    No campaign stands twice in an agent's list. Of all ways to split it so, the
    one is taken that leaves the fewest pieces which are no active campaign (the
    list names active ones only). `campaigns_ambiguous` is true if the list holds
    a dash and an unknown piece is left, if several ways that name different
    campaigns leave equally few, or if there is no such way. Ids are compared
    exactly, then as MariaDB does, without regard to case.

    With `known` being `None`, or for a list of more than `_MOST_DASHES`, nothing is changed: any list with a
    dash is ambiguous.
    """
    agent, text = found.agent, found.campaigns_text
    if known is None or (text is not None and text.count("-") > _MOST_DASHES):
        return found
    names = _Known(known)
    if text is None:
        campaigns = tuple(names.named(each) for each in agent.campaigns)
        return found.model_copy(update={"agent": agent.model_copy(update={"campaigns": campaigns})})
    pieces, several = _Split(text, names).best()
    changed = {
        "campaigns": tuple(names.named(Campaign(campaign_id=piece)) for piece in pieces if piece),
        "campaigns_ambiguous": "-" in text
        and (several or any(names.find(piece) is None for piece in pieces)),
    }
    return found.model_copy(update={"agent": agent.model_copy(update=changed)})


def hidden(text: str, known: Mapping[str, KnownCampaign]) -> list[str]:
    """Return what an unknown campaign in a joined list could be called, if it is read as several known ones.

    So `A-B`, if there are `A` and `B`; each leaves a rest that can be split into known campaigns.
    """
    return _Split(text, _Known(known)).overlooked()


class _Known:
    """The known campaigns, by id."""

    def __init__(self, known: Mapping[str, KnownCampaign]) -> None:
        self._exact = known
        self._ids = {each.casefold(): each for each in known}
        self.dashes = sorted({0, *(each.count("-") for each in known)})
        """How many dashes an id may hold."""
        self.longest = max([LONGEST_ID, *map(len, known)])

    def find(self, campaign_id: str) -> KnownCampaign | None:
        return self._exact.get(self.identity(campaign_id))

    def identity(self, campaign_id: str) -> str:
        """Return the known spelling of an id, and the same for all spellings of an unknown one."""
        if campaign_id in self._exact:
            return campaign_id
        folded = campaign_id.casefold()
        return self._ids.get(folded, folded)

    def named(self, campaign: Campaign) -> Campaign:
        known = self.find(campaign.campaign_id) if campaign.name is None else None
        return campaign if known is None else campaign.model_copy(update={"name": known.name})


class _Piece(NamedTuple):
    """A piece of a list, and the least cost of all from it to the end."""

    cost: tuple[int, int, int]
    """How many pieces are no active campaign, how many of these unknown, and how many there are."""
    after: int
    """The place where the next one begins."""
    idle: bool
    known: bool


class _Frame(NamedTuple):
    """A place where the next piece of a way begins, the pieces not yet tried, and the idle ones before it."""

    at: int
    untried: Iterator[_Piece]
    idle: int


class _Split:
    """The ways to split a joined list. A piece may begin at its beginning and behind each dash."""

    def __init__(self, text: str, known: _Known) -> None:
        self._text = text
        self._known = known
        self._ends = [*(dash.start() for dash in _DASH.finditer(text)), len(text)]
        self._begins = [0, *(end + 1 for end in self._ends[:-1])]
        self._places = len(self._ends)
        self._pieces = self._pieces_by_place()

    def _piece(self, at: int, after: int) -> str:
        return self._text[self._begins[at] : self._ends[after - 1]]

    def _pieces_by_place(self) -> list[list[_Piece]]:
        """Return the pieces that may stand at each place, that with the cheapest way to the end first.

        A piece holds as many dashes as some known id does, and none if it is unknown: so the time grows
        with the length of the text and no faster.
        """
        found: list[list[_Piece]] = [[] for _ in range(self._places)]
        least = [(0, 0, 0)] * (self._places + 1)
        for at in reversed(range(self._places)):
            for after in (at + dashes + 1 for dashes in self._known.dashes):
                if after > self._places:
                    break
                campaign = self._known.find(self._piece(at, after))
                if campaign is None and after > at + 1:
                    continue
                idle, unknown, pieces = least[after]
                is_idle = campaign is None or not campaign.active
                cost = (idle + is_idle, unknown + (campaign is None), pieces + 1)
                found[at].append(_Piece(cost, after, is_idle, campaign is not None))
            found[at].sort()
            least[at] = found[at][0].cost
        return found

    def best(self) -> tuple[list[str], bool]:
        """Return the pieces of the best way, and whether another may be as good and name other campaigns."""
        if not self._text:
            return [], False
        steps = iter(range(_STEPS + 4 * self._places))
        for idle in range(self._pieces[0][0].cost[0], self._places + 1):
            first: list[str] | None = None
            for pieces in self._ways(idle, steps):
                if first is None:
                    first = pieces
                elif self._campaigns(pieces) != self._campaigns(first):
                    return first, True
            exhausted = next(steps, None) is None
            if first is not None:
                return first, exhausted
            if exhausted:
                break
        return self._cheapest(), True

    def _campaigns(self, pieces: list[str]) -> set[str]:
        return set(map(self._known.identity, pieces))

    def _ways(self, idle: int, steps: Iterator[int]) -> Iterator[list[str]]:
        """Yield the ways in which no campaign stands twice and `idle` pieces are no active one.

        Each piece that is tried takes one of the `steps`; without any left, no more are found.
        """
        pieces: list[str] = []
        used: set[str] = set()
        frames = [_Frame(0, iter(self._pieces[0]), 0)]
        while frames and next(steps, None) is not None:
            at, untried, idle_before = frames[-1]
            piece = next(untried, None)
            if piece is None:
                frames.pop()
                if pieces:
                    used.discard(self._known.identity(pieces.pop()))
                continue
            text = self._piece(at, piece.after)
            identity = self._known.identity(text)
            if identity in used or idle_before + piece.cost[0] > idle:
                continue
            if piece.after < self._places:
                used.add(identity)
                pieces.append(text)
                frames.append(_Frame(piece.after, iter(self._pieces[piece.after]), idle_before + piece.idle))
            elif idle_before + piece.cost[0] == idle:
                yield [*pieces, text]

    def _cheapest(self) -> list[str]:
        """Return the pieces of the way that costs least if a campaign may stand twice."""
        pieces, at = [], 0
        while at < self._places:
            after = self._pieces[at][0].after
            pieces.append(self._piece(at, after))
            at = after
        return pieces

    def overlooked(self) -> list[str]:
        """Return the unknown ids of more than one piece whose neighbours can be split into known ids."""
        fore = [True, *[False] * self._places]
        back = [*[False] * self._places, True]
        for at in range(self._places):
            if fore[at]:
                for piece in self._pieces[at]:
                    fore[piece.after] |= piece.known
        for at in reversed(range(self._places)):
            back[at] = any(piece.known and back[piece.after] for piece in self._pieces[at])
        found: dict[str, None] = {}
        for at in filter(fore.__getitem__, range(self._places)):
            for after in range(at + 2, self._places + 1):
                text = self._piece(at, after)
                if len(text) > self._known.longest:
                    break
                if back[after] and self._known.find(text) is None:
                    found[text] = None
        return list(found)
