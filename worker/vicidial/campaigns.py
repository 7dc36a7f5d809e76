"""Which campaigns a dash-joined list names, and what they are called.

VICIdial joins an agent's campaigns with dashes, and a campaign's id may hold
dashes itself, and even begin with one: ``X-ALL--LEAD`` may be ``X-ALL`` and
``-LEAD``. The list of all campaigns tells where one ends and the next begins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from worker.core.records import AgentEnrichment, Campaign
from worker.vicidial.extras import KnownCampaign

_DASH = re.compile("-")


def resolve(found: AgentEnrichment, known: Mapping[str, KnownCampaign] | None) -> AgentEnrichment:
    """Name an agent's campaigns, and split its joined list where the known campaigns say.

    Of all ways to split it, the one is taken that leaves the fewest pieces
    which are no active campaign (the list names active ones only), of those the
    one with the fewest unknown pieces, of those the one with the fewest pieces.
    `campaigns_ambiguous` is true where the list holds a dash and an unknown
    piece is left, or where several ways leave equally few. Ids are compared
    exactly, then as MariaDB does, without regard to case.

    With `known` being `None` nothing is changed: any list with a dash is ambiguous.
    """
    if known is None:
        return found
    names = _Known(known)
    agent, text = found.agent, found.campaigns_text
    if text is None:
        campaigns = tuple(names.named(each) for each in agent.campaigns)
        return found.model_copy(update={"agent": agent.model_copy(update={"campaigns": campaigns})})
    split = _split(text, names)
    changed = {
        "campaigns": tuple(names.named(Campaign(campaign_id=piece)) for piece in split.pieces if piece),
        "campaigns_ambiguous": "-" in text
        and (split.several or any(names.find(piece) is None for piece in split.pieces)),
    }
    return found.model_copy(update={"agent": agent.model_copy(update=changed)})


class _Known:
    """The known campaigns, by id."""

    def __init__(self, known: Mapping[str, KnownCampaign]) -> None:
        self._exact = known
        self._folded = {each.casefold(): campaign for each, campaign in known.items()}
        self.dashes = sorted({0, *(each.count("-") for each in known)})
        """How many dashes an id may hold."""

    def find(self, campaign_id: str) -> KnownCampaign | None:
        exact = self._exact.get(campaign_id)
        return exact if exact is not None else self._folded.get(campaign_id.casefold())

    def named(self, campaign: Campaign) -> Campaign:
        known = self.find(campaign.campaign_id) if campaign.name is None else None
        return campaign if known is None else campaign.model_copy(update={"name": known.name})


@dataclass(frozen=True, slots=True)
class _Split:
    pieces: tuple[str, ...]
    several: bool
    """Whether other splits leave equally few pieces that are no active campaign."""


def _split(text: str, known: _Known) -> _Split:
    """Find the best split, from the end of the text to its beginning.

    For each place where a piece may begin, that is behind each dash, it is known what the best split of
    the rest costs, how many ways there are to that cost (one, or more), and where its first piece ends.
    A piece ends before a dash or at the end, and holds as many dashes as some known id does: so the time
    grows with the length of the text and no faster.
    """
    if not text:
        return _Split((), several=False)
    ends = [*(dash.start() for dash in _DASH.finditer(text)), len(text)]
    begins = [0, *(end + 1 for end in ends[:-1])]
    costs = [(0, 0, 0)] * (len(ends) + 1)
    ways = [1] * (len(ends) + 1)
    nexts = [0] * len(ends)
    for at in reversed(range(len(ends))):
        options = []
        for last in (at + dashes for dashes in known.dashes):
            if last >= len(ends):
                break
            campaign = known.find(text[begins[at] : ends[last]])
            if campaign is None and last > at:
                continue  # an unknown piece holds no dash
            idle = campaign is None or not campaign.active
            rest = costs[last + 1]
            options.append(((rest[0] + idle, rest[1] + (campaign is None), rest[2] + 1), last + 1))
        costs[at], nexts[at] = min(options)
        ways[at] = min(2, sum(ways[after] for cost, after in options if cost[0] == costs[at][0]))
    pieces = []
    at = 0
    while at < len(ends):
        pieces.append(text[begins[at] : ends[nexts[at] - 1]])
        at = nexts[at]
    return _Split(tuple(pieces), several=ways[0] > 1)
