"""Which campaigns a dash-joined list names, now that the dialer's campaigns are known."""

import random
import time
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.recordings import find
from worker.core.payload import AgentEnrichment, AgentRecord, Campaign
from worker.vicidial.agents import KnownCampaign, possible_hidden_ids, read_agent, read_campaigns, resolve

PROPERTY = settings(max_examples=500)
RECORDED = read_campaigns(find("campaigns_list", "campaigns_list_pipe_header-YES").body)


def answered(text: str) -> AgentEnrichment:
    return read_agent(f"user|allowed_campaigns_list|allowed_ingroups_list\n1|{text}|IN1\n", "1")


def known(*active: str, inactive: tuple[str, ...] = ()) -> dict[str, KnownCampaign]:
    return {
        **{each: KnownCampaign(f"Name of {each}", active=True) for each in active},
        **{each: KnownCampaign(f"Name of {each}", active=False) for each in inactive},
    }


def ids(found: AgentEnrichment) -> list[str]:
    return [each.campaign_id for each in found.agent.campaigns]


def split(text: str, campaigns: dict[str, KnownCampaign]) -> tuple[list[str], bool]:
    """Return the ids, and whether they are ambiguous."""
    found = resolve(answered(text), campaigns)
    return ids(found), found.agent.campaigns_ambiguous


def recorded(name: str, campaigns: dict[str, KnownCampaign]) -> tuple[list[str], bool]:
    exchange = find("agent_campaigns", name)
    found = resolve(read_agent(exchange.body, exchange.query["agent_user"]), campaigns)
    return ids(found), found.agent.campaigns_ambiguous


# --- what was recorded


def test_a_recorded_id_with_a_dash_is_one_campaign() -> None:
    assert recorded("agent_1001_ignore-Y", RECORDED) == (["OUTONLY", "RENEW_24", "SUPP-1"], False)


def test_recorded_ids_that_hold_and_begin_with_dashes_are_split() -> None:
    name = "id_containing_dash_ALL_gives_every_campaign"
    active = ["SALES1", "RENEW_24", "SUPP-1", "OUTONLY", "OUTEMPTY", "ADCAMP", "7"]
    assert recorded(name, RECORDED | known("X-ALL", "-LEAD")) == ([*active, "X-ALL", "-LEAD"], False)
    assert recorded(name, RECORDED) == ([*active, "X", "ALL", "LEAD"], True)


# --- names


def test_campaigns_get_their_names() -> None:
    found = resolve(answered("A-NEW-B"), {**known("A"), "B": KnownCampaign(None, active=True)})
    assert found.agent.campaigns == (
        Campaign(campaign_id="A", name="Name of A"),
        Campaign(campaign_id="NEW"),
        Campaign(campaign_id="B"),
    )


def test_what_the_dialer_named_by_itself_is_kept_as_it_is() -> None:
    found = resolve(read_agent("1|A|Told|-B||B-C|Told too", "1"), known("A", "-B", "B", "C"))
    assert [each.name for each in found.agent.campaigns] == ["Told", "Name of -B", "Told too"]
    assert (found.campaigns_text, found.agent.campaigns_ambiguous) == (None, False)


def test_all_else_stays() -> None:
    before = answered("SUPP-1")
    found = resolve(before, known("SUPP-1"))
    assert found.model_dump(exclude={"agent": {"campaigns", "campaigns_ambiguous"}}) == before.model_dump(
        exclude={"agent": {"campaigns", "campaigns_ambiguous"}}
    )
    assert found.campaigns_text == "SUPP-1"


def test_without_a_list_nothing_changes() -> None:
    for text in ("A", "A-B", ""):
        assert resolve(answered(text), None) == answered(text)
    nothing = AgentEnrichment(agent=AgentRecord(agent_user="1"))
    assert resolve(nothing, known("A")) == nothing


def test_ids_are_compared_exactly_then_whatever_the_case() -> None:
    campaigns = {"a": KnownCampaign("small", active=True), "A": KnownCampaign("capital", active=True)}
    found = resolve(answered("a-A"), campaigns).agent
    assert [each.name for each in found.campaigns] == ["small", "capital"]
    assert split("supp-1-Sales", known("SUPP-1", "SALES")) == (["supp-1", "Sales"], False)


# --- splitting


@pytest.mark.parametrize(
    ("text", "campaigns", "expected", "ambiguous"),
    [
        ("", known("A"), [], False),
        ("A", known("A"), ["A"], False),
        ("A", {}, ["A"], False),
        ("A-B", known("A", "B"), ["A", "B"], False),
        ("A-B", {}, ["A", "B"], True),
        ("A-B", known("A"), ["A", "B"], True),
        ("A-B", known("A-B"), ["A-B"], False),
        ("A-B", known("A-B", "A"), ["A-B"], False),
        ("A-B", known("A-B", "A", "B"), ["A-B"], True),
        ("A-B-C", known("A-B", "C", "A"), ["A-B", "C"], False),
        ("A-B-C", known("A-B", "B-C"), ["A", "B-C"], True),
        ("A-B-C", known("A-B", "B-C", "A", "C"), ["A", "B-C"], True),
        ("A--B", known("A", "-B"), ["A", "-B"], False),
        ("A--B", known("A-", "B"), ["A-", "B"], False),
        ("A--B", known("A", "B"), ["A", "B"], True),
        ("A-", known("A"), ["A"], True),
        ("-", {}, [], True),
        ("-", known("-"), ["-"], False),
        ("---", known("-"), ["-", "-"], True),
        ("A-A", known("A"), ["A", "A"], True),
        ("A-A", known("A", "A-A"), ["A-A"], False),
        ("A-a", known("A"), ["A", "a"], True),
        ("OD-A-OD-A", known("OD-A", "OD", "A"), ["OD-A", "OD", "A"], False),
        ("X-OD-A-OD-A-Y", known("OD-A", "OD", "A", "X", "Y"), ["X", "OD-A", "OD", "A", "Y"], False),
        ("OD-A-OD-A", known("OD-A", "OD", "A", "A-OD"), ["OD-A", "OD", "A"], True),
        ("OD-A-OD-A", known("OD-A", "OD", "A-OD"), ["OD-A", "OD", "A"], True),
        ("OD-A-OD-A", known("OD-A"), ["OD-A", "OD", "A"], True),
        ("A-B-A-B-A-B", known("A-B", "A", "B", "B-A"), ["A-B", "A", "B-A", "B"], False),
        ("1-2-1-2-3-3", known("1", "2", "1-2", "3", "3-3"), ["1-2", "1", "2", "3-3"], False),
    ],
)
def test_a_list_is_split_where_the_known_campaigns_say(
    text: str,
    campaigns: dict[str, KnownCampaign],
    expected: list[str],
    ambiguous: bool,  # noqa: FBT001
) -> None:
    assert split(text, campaigns) == (expected, ambiguous)


@pytest.mark.parametrize(
    ("text", "campaigns", "expected", "ambiguous"),
    [
        ("OLD-A", known("A", inactive=("OLD",)), ["OLD", "A"], False),
        ("A-B", known("A", "B", inactive=("A-B",)), ["A", "B"], False),
        ("A-B", known("A-B", inactive=("A", "B")), ["A-B"], False),
        ("A-B", known(inactive=("A-B",)), ["A-B"], False),
        ("A-B", known("A", inactive=("A-B",)), ["A-B"], True),
        ("A-B-C", known("B-C", inactive=("A-B", "C")), ["A", "B-C"], True),
    ],
)
def test_an_inactive_campaign_is_hardly_likelier_than_an_unknown_one(
    text: str,
    campaigns: dict[str, KnownCampaign],
    expected: list[str],
    ambiguous: bool,  # noqa: FBT001
) -> None:
    assert split(text, campaigns) == (expected, ambiguous)


# --- properties


def all_splits(text: str, campaigns: dict[str, KnownCampaign]) -> list[list[str]]:
    """Try every set of dashes: each piece is a known id, or holds no dash."""
    dashes = [at for at, letter in enumerate(text) if letter == "-"]
    splits = []
    for count in range(len(dashes) + 1):
        for cuts in combinations(dashes, count):
            begins, ends = [0, *(at + 1 for at in cuts)], [*cuts, len(text)]
            pieces = [text[begin:end] for begin, end in zip(begins, ends, strict=True)]
            if all(piece in campaigns or "-" not in piece for piece in pieces):
                splits.append(pieces)
    return splits


short_ids = st.text("A-", min_size=1, max_size=4)
some_campaigns = st.dictionaries(
    short_ids, st.booleans().map(lambda on: KnownCampaign(None, active=on)), max_size=5
)


@PROPERTY
@given(
    campaigns=some_campaigns, text=st.text("AB-", min_size=1, max_size=9).filter(lambda text: text.strip())
)
def test_the_split_is_the_best_of_all_there_are(campaigns: dict[str, KnownCampaign], text: str) -> None:
    def unlikely(pieces: list[str]) -> int:
        return sum(piece not in campaigns or not campaigns[piece].active for piece in pieces)

    splits = all_splits(text, campaigns)
    possible = [pieces for pieces in splits if len(set(pieces)) == len(pieces)]
    found, ambiguous = split(text, campaigns)
    if not possible:
        assert ambiguous == ("-" in text)
        return
    fewest = min(map(unlikely, possible))
    best = [pieces for pieces in possible if unlikely(pieces) == fewest]
    assert found in [[piece for piece in pieces if piece] for pieces in best]
    several = len({frozenset(pieces) for pieces in best}) > 1
    assert ambiguous == ("-" in text and (several or not campaigns.keys() >= set(best[0])))


@PROPERTY
@given(
    campaigns=some_campaigns.filter(lambda campaigns: any(each.active for each in campaigns.values())),
    chosen=st.sets(st.integers(0, 4), min_size=1),
    order=st.randoms(use_true_random=False),
)
def test_what_is_said_to_be_certain_is_what_was_joined(
    campaigns: dict[str, KnownCampaign], chosen: set[int], order: random.Random
) -> None:
    active = [each for each, campaign in campaigns.items() if campaign.active]
    joined = list({active[number % len(active)] for number in chosen})
    order.shuffle(joined)
    found, ambiguous = split("-".join(joined), campaigns)
    assert ambiguous or sorted(found) == sorted(joined)


@pytest.mark.parametrize(
    ("text", "campaigns", "expected"),
    [
        ("A-B", ("A", "B"), ["A-B"]),
        ("A-B-C", ("A", "B", "C"), ["A-B", "A-B-C", "B-C"]),
        ("A-B-C", ("A-B", "C"), ["A-B-C"]),
        ("A-B-C", ("A-B", "B", "C", "A"), ["A-B-C", "B-C"]),
        ("A-B-OTHER", ("A", "B"), ["B-OTHER"]),
        ("A-B-NOBODYS", ("A", "B"), []),
        ("100-101-102", ("100", "101", "102"), ["100-101", "101-102"]),
        ("SALES1-RENEW_24-SUPP-1", ("SALES1", "RENEW_24", "SUPP-1"), []),
        ("SALES1-RENEW_24-ADCAMP-7", ("SALES1", "RENEW_24", "ADCAMP", "7"), ["ADCAMP-7"]),
        ("a-b", ("A", "B", "A-B"), []),
        ("LONG-CAMPAIGNS", ("LONG", "CAMPAIGNS"), []),
        ("LONG-CAMPAIGNS", ("LONG", "CAMPAIGNS", "LONG-CAMPAIGN2"), ["LONG-CAMPAIGNS"]),
        ("A--B", ("A", "-B"), ["A--B"]),
        ("A", ("A",), []),
        ("", (), []),
    ],
)
def test_what_a_hidden_campaign_could_be_called(
    text: str, campaigns: tuple[str, ...], expected: list[str]
) -> None:
    assert possible_hidden_ids(text, known(*campaigns)) == expected


@pytest.mark.parametrize("pair", [("OD", "A"), ("1", "2")])
def test_a_list_with_too_many_ways_is_ambiguous_and_takes_no_time(pair: tuple[str, str]) -> None:
    ids = [f"{name}{number}" for number in range(100) for name in pair]
    joins = ["-".join(each) for each in pairwise(ids)]
    started = time.process_time()
    assert split("-".join(ids * 2), known(*ids, *joins))[1]
    assert time.process_time() - started < 5


@pytest.mark.no_cover
@pytest.mark.parametrize("text", ["-", "A-", "-A", "A", "--A", "A-B-"])
@pytest.mark.parametrize(
    "campaigns",
    [
        {},
        known("-"),
        known("A", "-A", "A-"),
        known("A-B", "B-A", "A-B-A"),
        known(*("-" * count for count in range(1, 32))),
    ],
    ids=["none", "dash", "beside dashes", "between dashes", "many dashes"],
)
def test_the_time_for_a_list_grows_with_its_length_and_no_faster(
    text: str, campaigns: dict[str, KnownCampaign]
) -> None:
    whole = text * (2000 // len(text))
    enrichment = AgentEnrichment(agent=AgentRecord(agent_user="1"), campaigns_text=whole)
    started = time.process_time()
    resolve(enrichment, campaigns)
    possible_hidden_ids(whole, campaigns)
    assert time.process_time() - started < 10


def test_an_endless_list_is_left_ambiguous() -> None:
    started = time.process_time()
    assert split("-" * 2**20, known(*("-" * count for count in range(1, 32))))[1]
    assert time.process_time() - started < 5
