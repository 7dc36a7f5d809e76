"""Agents: the answers of `agent_campaigns`, `campaigns_list` and `user_details`, and dash-joined campaigns.

VICIdial joins an agent's campaigns with dashes, and a campaign's id may contain
dashes itself, and even begin with one: ``X-ALL--LEAD`` may be ``X-ALL`` and
``-LEAD``. The list of all campaigns shows where one ends and the next begins.

That list lacks the campaigns that the API user's group may not see, but an
agent's list has them: ``A-B`` may be one such campaign, although there are ``A``
and ``B``. `possible_hidden_ids` lists the ids that such a campaign could have.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import NamedTuple

from worker.core.payload import AgentEnrichment, AgentRecord, Campaign, split_at_dashes
from worker.vicidial.answers import (
    SEPARATORS,
    by_name,
    error_message,
    error_text,
    explain,
    explain_needed,
    find_rows,
    lines,
    only_row,
    split_row,
    split_values,
    unreadable,
)

# --- agent_campaigns

_AGENT_COLUMNS = ("user", "allowed_campaigns_list", "allowed_ingroups_list")
_OTHER_AGENT_COLUMNS = frozenset(_AGENT_COLUMNS[1:])
_NO_CAMPAIGNS = re.compile(r"NO AVAILABLE CAMPAIGNS(?:: *([^|]*)\|)?")


def read_agent(body: str, agent_user: str) -> AgentEnrichment:
    """Parse an answer of `agent_campaigns` about one agent, who may have no campaigns.

    The list is split at each dash, so one with a dash is marked as `campaigns_ambiguous`; `resolve` splits it
    with the list of all campaigns. Raises like `worker.vicidial.calls.read_call`.
    """
    columns: list[str] | tuple[str, ...] | None
    columns, rows = find_rows(body, agent_user, "user", _OTHER_AGENT_COLUMNS)
    if not rows:
        return _agent_without_campaigns(body, agent_user)
    if columns is None:
        following = _lines_from(body, agent_user)
        if any(len(row) != len(_AGENT_COLUMNS) or _is_name(row[2]) for row in rows) or (
            len(following) > len(rows)
        ):
            return _tutorial_agent(following, agent_user)
        columns = _AGENT_COLUMNS
    row = by_name("agent_campaigns", columns, only_row(rows))
    if not row.keys() >= _OTHER_AGENT_COLUMNS:
        raise unreadable("the row of agent_campaigns lacks its lists")
    return _real_agent(agent_user, row["allowed_campaigns_list"], row["allowed_ingroups_list"])


def _agent_without_campaigns(body: str, agent_user: str) -> AgentEnrichment:
    empty = _NO_CAMPAIGNS.search(error_text(body))
    if empty is None:
        raise explain_needed(body, "agent_campaigns")
    if empty[1] not in (None, agent_user):
        raise unreadable("agent_campaigns answered about another agent than asked for")
    return AgentEnrichment(agent=AgentRecord(agent_user=agent_user))


def _real_agent(agent_user: str, campaigns: str, in_groups: str) -> AgentEnrichment:
    """Split the lists at their dashes. A campaign's id may contain a dash too, an in-group's may not."""
    agent = AgentRecord(
        agent_user=agent_user,
        campaigns=tuple(Campaign(campaign_id=each) for each in split_at_dashes(campaigns)),
        in_groups=tuple(split_at_dashes(in_groups)),
        campaigns_ambiguous="-" in campaigns,
    )
    return AgentEnrichment(agent=agent, campaigns_text=campaigns)


def _lines_from(body: str, asked: str) -> list[str]:
    """Return the row of the id and the lines after it that may hold a pair, each line once."""
    rest = list(dropwhile(lambda line: split_row(line, asked) is None, dict.fromkeys(lines(body))))
    mark = rest[0][len(asked) :].lstrip(" ")[:1]
    return [line for line in rest if mark in line and line.strip() and not line.startswith("<")]


def _tutorial_agent(following: list[str], agent_user: str) -> AgentEnrichment:
    """Parse the tutorials' order: agent, then pairs of campaign id and name.

    All are on one line, or a pair is on each line, with the agent on the first line or on each.
    """
    mark = following[0][len(agent_user) :].lstrip(" ")[:1]
    campaigns: dict[str, Campaign] = {}
    for line in following:
        values = split_row(line, agent_user)
        if values is None:
            mark = mark or next((each for each in SEPARATORS if each in line), "|")
            values = [agent_user, *split_values(line, mark)]
        for campaign in _pairs(values[1:]):
            if campaigns.setdefault(campaign.campaign_id, campaign) != campaign:
                raise unreadable("the answer of agent_campaigns gives one campaign two names")
    if not campaigns:
        raise unreadable("the answer of agent_campaigns names no campaign")
    return AgentEnrichment(agent=AgentRecord(agent_user=agent_user, campaigns=tuple(campaigns.values())))


def _pairs(values: list[str]) -> list[Campaign]:
    ids, names = values[::2], values[1::2]
    if len(ids) != len(names) or not all(ids) or any(" " in each for each in ids):
        raise unreadable("the answer of agent_campaigns fits no known order")
    return [Campaign(campaign_id=each, name=name or None) for each, name in zip(ids, names, strict=True)]


def _is_name(text: str) -> bool:
    """Return whether a text is a campaign's name; ids of in-groups have neither spaces nor small letters."""
    return " " in text or text != text.upper()


# --- campaigns_list

_CAMPAIGN_ID = "campaign_id"
_OTHER_CAMPAIGN_COLUMNS = frozenset({"campaign_name", "active", "user_group"})
_FEWEST_CAMPAIGN_COLUMNS = 8
_STARTS_WITH_CAMPAIGN = re.compile(r"[-\w]{1,32} *([|\t,])")
_LONGEST_READ_ID = 32
"""VICIdial's own have eight characters at most."""
_ACTIVE = {"Y": True, "N": False}
_NO_ROW = ("<", "ERROR:", "DEBUG:")
"""Beginnings of lines that are no rows: PHP's warnings, VICIdial's errors and queries."""

_DETAILS_COLUMNS = ("user", "full_name", "user_group", "user_level", "active")
_OTHER_DETAILS = frozenset(_DETAILS_COLUMNS[1:])
_LEVEL = re.compile(r"[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class KnownCampaign:
    """One of the dialer's campaigns. `name` is None if it has none, or none that could be read."""

    name: str | None
    active: bool


@dataclass(frozen=True, slots=True)
class UserDetails:
    """What the dialer knows of a user."""

    full_name: str | None
    user_group: str | None
    user_level: int | None


def read_campaigns(body: str) -> dict[str, KnownCampaign]:
    """Parse an answer of `campaigns_list`, by campaign id; empty if the API user may see none.

    A name that contains the separator makes its row longer than the header: the id is before it, and the
    columns behind it are counted from the end. If it stays unclear which field contains the separator, only
    the name is left out. Anything else that does not fit is an error: an agent's joined list would be split
    wrongly if a campaign was missing here. Raises `EnrichmentUnavailable`.
    """
    header, rows = _campaign_rows(body)
    if not rows:
        if "NO VIEWABLE CAMPAIGNS" in error_message(body):
            return {}
        raise explain(body, "campaigns_list")
    if header is None and len({len(row) for row in rows}) > 1:
        raise unreadable("the rows of campaigns_list differ in length; a field may hold the separator")
    found: dict[str, KnownCampaign] = {}
    for row in rows:
        campaign = _campaign_by_shape(row) if header is None else _campaign_by_name(header, row)
        if not 0 < len(row[0]) <= _LONGEST_READ_ID:
            raise unreadable("a row of campaigns_list has no campaign id")
        if found.setdefault(row[0], campaign) != campaign:
            raise unreadable("campaigns_list has one campaign in two ways")
    return found


def _campaign_rows(body: str) -> tuple[list[str] | None, list[list[str]]]:
    """Return the lines with the separator of the header, else of the first line that looks like a row."""
    all_lines = lines(body)
    header, mark = None, None
    for line in all_lines:
        names = split_row(line, _CAMPAIGN_ID)
        if names is not None and not _OTHER_CAMPAIGN_COLUMNS.isdisjoint(names[1:]):
            header, mark = names, line[len(_CAMPAIGN_ID) :].lstrip(" ")[0]
            break
    if mark is None:
        first = next(filter(None, map(_STARTS_WITH_CAMPAIGN.match, all_lines)), None)
        if first is None:
            return None, []
        mark = first[1]
    rows = [split_values(line, mark) for line in all_lines if mark in line and not line.startswith(_NO_ROW)]
    return header, [row for row in rows if row != header]


def _campaign_by_name(header: list[str], values: list[str]) -> KnownCampaign:
    """Parse name and mark by their columns; the mark shows on which side of it a field has the separator."""
    if "campaign_name" not in header or "active" not in header:
        raise unreadable("campaigns_list names no column of names, or none of which are active")
    name, mark = header.index("campaign_name"), header.index("active")
    surplus = len(values) - len(header)
    if surplus <= 0 or name > mark:
        row = by_name("campaigns_list", header, values)
        return _known_campaign(row["campaign_name"], row["active"])
    if values[mark] not in _ACTIVE:
        row = by_name("campaigns_list", header, values, free_text="campaign_name")
        return _known_campaign(row["campaign_name"], row["active"])
    if values[mark + surplus] not in _ACTIVE:
        return _known_campaign(values[name], values[mark])
    return _known_campaign("", values[mark + surplus])


def _campaign_by_shape(values: list[str]) -> KnownCampaign:
    """Parse id, name and mark: without a header only the mark shows where the name ends."""
    marks = [at for at, value in enumerate(values[:-5]) if value in _ACTIVE and at > 1]
    if len(values) < _FEWEST_CAMPAIGN_COLUMNS or marks != [2]:
        raise unreadable("a row of campaigns_list fits no known order")
    return _known_campaign(values[1], values[2])


def _known_campaign(name: str, active: str) -> KnownCampaign:
    if active not in _ACTIVE:
        raise unreadable("campaigns_list does not tell of a campaign whether it is active")
    return KnownCampaign(name or None, _ACTIVE[active])


# --- user_details


def read_user_details(body: str, agent_user: str) -> UserDetails | None:
    """Parse an answer of `user_details` about one user; None if there is none that may be seen.

    The row has the database's spelling of the user, whose case may differ. Raises `EnrichmentUnavailable`.
    """
    header, rows = find_rows(body, agent_user, "user", _OTHER_DETAILS, any_case=True)
    if not rows:
        if "USER NOT FOUND" in error_message(body):
            return None
        raise explain(body, "user_details")
    values = only_row(rows)
    columns: Sequence[str] = _DETAILS_COLUMNS if header is None else header
    row = by_name("user_details", columns, values, free_text="full_name")
    if (header is None or len(values) > len(columns)) and row.get("active") not in _ACTIVE:
        raise unreadable("the row of user_details fits no known order")
    level = row.get("user_level") or None
    if level is not None and not _LEVEL.fullmatch(level):
        raise unreadable("user_details answered with a user level that is not a number")
    return UserDetails(
        full_name=row.get("full_name") or None,
        user_group=row.get("user_group") or None,
        user_level=None if level is None else int(level),
    )


# --- dash-joined campaigns

LONGEST_ID = 8
"""The longest id of a campaign in VICIdial's database: `vicidial_campaigns.campaign_id VARCHAR(8)`."""
_MOST_DASHES = 2000
_STEPS = 2000
"""How many pieces are tried before a list counts as ambiguous."""

_DASH = re.compile("-")


def resolve(found: AgentEnrichment, known: Mapping[str, KnownCampaign] | None) -> AgentEnrichment:
    """Return an agent with its campaigns named, and its joined list split by the known campaigns.

    No campaign is twice in an agent's list, and the list has active ones only. Of all ways to split it, the
    one with the fewest pieces that are no active campaign wins. `campaigns_ambiguous` is true if the list has
    a dash and an unknown piece is left, if several ways with different campaigns are equally good, or if
    there is no way. Ids are compared exactly, then case-insensitively as MariaDB does.

    If `known` is None, or the list has more than `_MOST_DASHES`, nothing is changed: any list with a dash is
    ambiguous.
    """
    text = found.campaigns_text
    if known is None or (text is not None and text.count("-") > _MOST_DASHES):
        return found
    names = _Known(known)
    if text is None:
        return found.with_agent(campaigns=tuple(names.named(each) for each in found.agent.campaigns))
    pieces, several = _Split(text, names).best()
    unsure = several or any(names.find(piece) is None for piece in pieces)
    return found.with_agent(
        campaigns=tuple(names.named(Campaign(campaign_id=piece)) for piece in pieces if piece),
        campaigns_ambiguous="-" in text and unsure,
    )


def possible_hidden_ids(text: str, known: Mapping[str, KnownCampaign]) -> list[str]:
    """Return the ids of an unknown campaign that could be read as several known ones, as `A-B` as `A`, `B`.

    The rest of the list can be split into known campaigns for each of them.
    """
    return _Split(text, _Known(known)).overlooked()


class _Known:
    """The known campaigns, by id."""

    def __init__(self, known: Mapping[str, KnownCampaign]) -> None:
        self._exact = known
        self._ids = {each.casefold(): each for each in known}
        self.dashes = sorted({0, *(each.count("-") for each in known)})
        """How many dashes an id may contain."""
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
    """A piece of a list, and the least cost from it to the end."""

    cost: tuple[int, int, int]
    """How many pieces are no active campaign, how many of these are unknown, and how many there are."""
    after: int
    """The position of the next one."""
    idle: bool
    known: bool


class _Frame(NamedTuple):
    """A position in a way, the pieces not yet tried there, and how many idle ones are before it."""

    at: int
    untried: Iterator[_Piece]
    idle: int


class _Split:
    """The ways to split a joined list. A piece may begin at the start and behind each dash."""

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
        """Return the possible pieces at each position, the one with the cheapest way to the end first.

        A piece has as many dashes as some known id, and none if it is unknown: so the time is linear in the
        length of the text.
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
        """Return the pieces of the best way, and whether another with other campaigns may be as good."""
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
        """Yield the ways without a repeated campaign in which `idle` pieces are no active one.

        Each piece that is tried consumes one of the `steps`; when none is left, the search ends.
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
        """Return the pieces of the cheapest way in which a campaign may be repeated."""
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
