"""Which recordings belong to a call: never those of another one."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.events import Event, EventType
from worker.core.payload import CallRecord, Recording
from worker.vicidial.calls import FoundRecording, build_searches, lead_of, match_to_call

NEW_YORK = ZoneInfo("America/New_York")
STARTED = datetime(2026, 11, 20, 14, 5, 9, tzinfo=NEW_YORK)
HUNG_UP = STARTED + timedelta(seconds=150)
"""After 6 s of ringing, 120 s of talk and 24 s in which the customer had left."""
OUTBOUND = CallRecord(
    call_id="V1201405090000012345",
    direction="outbound",
    started_at=STARTED,
    ended_at=HUNG_UP,
    talk_seconds=120,
    agent_user="1000",
    lead_id="12345",
)
INBOUND = OUTBOUND.model_copy(
    update={"call_id": "Y1201405090000012345", "direction": "inbound", "ended_at": None}
)
NO_END = OUTBOUND.model_copy(update={"ended_at": None})
NO_LEAD = {"call_id": "1000012345", "lead_id": None}
UNIQUEID = "1795269909.101"


def event(
    uniqueid: str | None = None,
    lead_id: str | None = None,
    after: float | datetime = 160,
    *,
    dated: bool = True,
    ended: float | None = None,
) -> Event:
    """Make an event so many seconds after the start, by default from the disposition screen."""
    when = after if isinstance(after, datetime) else STARTED + timedelta(seconds=after)
    end = None if ended is None else STARTED + timedelta(seconds=ended)
    return Event(EventType.CALL_ENDED, "e1", when, "V1", {}, dated, end, uniqueid, lead_id)


def found(
    number: str, after: float, seconds: int | None = 120, user: str = "1000", lead: str | None = "12345"
) -> FoundRecording:
    """Make a row of which the recording begins so many seconds after the call."""
    started = STARTED + timedelta(seconds=after)
    return FoundRecording(
        Recording(recording_id=number, started_at=started, duration_seconds=seconds), user, lead
    )


def ways(call: CallRecord, event: Event) -> list[list[dict[str, str]]]:
    return [[dict(query) for query in search.queries] for search in build_searches(call, event, NEW_YORK)]


def mine(rows: list[FoundRecording], call: CallRecord, event: Event) -> list[str | None] | None:
    """Return the ids of the call's own rows, as if the narrowest way had found them all."""
    mine = match_to_call(rows, call, event, build_searches(call, event, NEW_YORK)[0])
    return None if mine is None else [each.recording.recording_id for each in mine]


# --- what is searched for


BY_AGENT = [[{"agent_user": "1000", "date": "2026-11-20"}]]
BY_LEAD = [[{"lead_id": "12345"}]]


def test_the_narrowest_search_there_is_is_made_first() -> None:
    assert ways(OUTBOUND, event(UNIQUEID, "12345")) == [[{"uniqueid": UNIQUEID}], *BY_LEAD]
    assert ways(OUTBOUND, event(None, "77")) == [[{"lead_id": "77"}], *BY_LEAD]
    assert ways(OUTBOUND, event()) == BY_LEAD
    assert ways(OUTBOUND.model_copy(update=NO_LEAD), event()) == BY_AGENT
    assert ways(OUTBOUND.model_copy(update=NO_LEAD), event("1795269909")) == [[{"uniqueid": "1795269909"}]]


@pytest.mark.parametrize("uniqueid", ["179526.1", "1795269909.1;x", "x", "SIP/100-0001", "undefined", "0"])
def test_what_the_dialer_would_change_is_not_searched_for(uniqueid: str) -> None:
    assert ways(OUTBOUND, event(uniqueid)) == BY_LEAD
    odd = OUTBOUND.model_copy(update={"agent_user": "josé", **NO_LEAD})
    assert ways(odd, event()) == []


def test_a_call_over_midnight_is_searched_for_on_both_days() -> None:
    started = datetime(2026, 11, 20, 23, 59, tzinfo=NEW_YORK)
    over = {"started_at": started, "ended_at": datetime(2026, 11, 21, 5, 3, tzinfo=UTC)}
    (days,) = ways(OUTBOUND.model_copy(update=NO_LEAD | over), event(after=started))
    assert [search["date"] for search in days] == ["2026-11-20", "2026-11-21"]


@pytest.mark.parametrize(
    "unknown", [{"agent_user": None}, {"started_at": None}], ids=["nobody took it", "no start"]
)
def test_if_no_row_could_be_matched_none_is_searched_for(unknown: dict[str, None]) -> None:
    assert ways(OUTBOUND.model_copy(update=unknown), event(UNIQUEID, "12345")) == []


def test_an_agents_day_is_not_searched_if_nobody_said_when_the_call_ended() -> None:
    call = NO_END.model_copy(update=NO_LEAD)
    assert ways(call, event()) == []
    assert ways(call, event(ended=150)) == BY_AGENT


# --- whose a row is


def test_a_row_of_another_agent_is_another_calls() -> None:
    assert mine([found("1", 6, user="1001")], OUTBOUND, event()) == []
    assert mine(
        [found("1", 6, user="JANE")], OUTBOUND.model_copy(update={"agent_user": "Jane"}), event()
    ) == ["1"]


@pytest.mark.parametrize("user", ["VDAD", "VDCL", ""])
def test_a_row_of_no_agent_may_be_the_calls_own(user: str) -> None:
    assert mine([found("1", 6, user=user)], OUTBOUND, event()) is None
    assert mine([found("1", 6, user=user), found("2", 7)], OUTBOUND, event()) == ["2"]
    assert mine([found("1", 600, user=user)], OUTBOUND, event()) == []


@pytest.mark.parametrize("lead", ["12345", None])
def test_the_lead_of_the_event_and_the_one_in_the_id_are_both_the_calls(lead: str | None) -> None:
    rows = [found("1", 6, 30, lead="777"), found("2", 6, 20, lead=lead), found("3", 6, 10, lead="88")]
    assert mine(rows, OUTBOUND, event(UNIQUEID, "777")) == ["1", "2"]
    assert mine([found("1", 6, lead="777")], OUTBOUND, event(UNIQUEID, "12345")) == []


def test_a_row_of_another_lead_than_the_ids_is_not_taken_and_may_be_of_a_lead_that_was_exchanged() -> None:
    assert mine([found("1", 6, lead="777")], OUTBOUND, event(UNIQUEID)) is None
    assert mine([found("1", 6, lead="777"), found("2", 6)], OUTBOUND, event(UNIQUEID)) == ["2"]
    assert mine([found("1", 200, lead="777")], OUTBOUND, event(UNIQUEID)) == []


def test_a_row_without_a_time_may_be_the_calls_own() -> None:
    row = FoundRecording(Recording(recording_id="1"), "1000", "12345")
    assert mine([row], OUTBOUND, event()) is None
    assert mine([row, found("2", 6)], OUTBOUND, event()) == ["2"]


def test_the_lead_is_known_if_all_rows_agree() -> None:
    assert lead_of([found("1", 6), found("2", 7)]) == "12345"
    assert lead_of([found("1", 6), found("2", 7, lead="9")]) is None
    assert lead_of([found("1", 6, lead=None)]) is None
    assert lead_of([]) is None


# --- when it begins, if the hang-up is known


def test_they_begin_from_the_dialling_to_the_hang_up_the_longest_first() -> None:
    rows = [
        found("dialling", -3, 30),
        found("talk", 6),
        found("unknown length", 8, None),
        found("customer left", 130, 15),
        found("at the end", 150, 1),
        found("of the call before", -300, 280),
        found("ended as this one began", -8, 6),
        found("of the next call", 151),
    ]
    expected = ["talk", "dialling", "customer left", "at the end", "unknown length"]
    for said in (event(), event(UNIQUEID), event(None, "12345"), event(dated=False, after=10**6)):
        assert mine(rows, OUTBOUND, said) == expected


def test_a_call_without_a_recording_does_not_get_that_of_the_next_call() -> None:
    """Of the same agent to the same lead, however late the event comes."""
    for after in (160, 3600, 2 * 86400):
        for dated in (True, False):
            rows = [found("2", 400), found("3", 2 * 86400)]
            assert mine(rows, OUTBOUND, event(after=after, dated=dated)) == []


def test_the_events_own_end_counts_if_it_is_later_than_the_dialers() -> None:
    rows = [found("1", 6), found("2", 149, 5), found("3", 155, 5)]
    assert mine(rows, OUTBOUND, event(ended=130)) == ["1", "2"]
    assert mine(rows, OUTBOUND, event(ended=156)) == ["1", "2", "3"]
    for bogus in (-5, 86400):
        assert mine(rows, OUTBOUND, event(ended=bogus)) == ["1", "2"]


def test_without_any_lead_the_rows_of_the_agents_time_in_the_call_are_its_own() -> None:
    call = OUTBOUND.model_copy(update=NO_LEAD)
    rows = [found("1", 6, lead="7"), found("2", -60, 50, lead="8"), found("3", 160, lead="9")]
    assert mine(rows, call, event()) == ["1"]


def test_without_any_lead_a_waiting_caller_does_not_get_the_recordings_of_the_calls_before() -> None:
    call = INBOUND.model_copy(update={**NO_LEAD, "talk_seconds": 60})
    said = event(ended=300)
    assert mine([found("before", 20, lead="7"), found("own", 241, lead="8")], call, said) == ["own"]
    assert mine([found("before", 20, lead="7")], call, said) is None


def test_the_rows_time_is_no_start_to_go_by_if_it_does_not_fit_to_the_id() -> None:
    """It is the hang-up then, and the recordings begin before it."""
    call = NO_END.model_copy(update={"call_id": "V1201405000000012345"})
    assert mine([found("1", -100)], call, event()) is None
    assert mine([found("1", -100)], NO_END, event()) == []


# --- when it begins, if nobody knows the hang-up


def test_what_begins_within_the_talk_time_is_the_calls_own() -> None:
    """The recorded answer to `uniqueid` 1795269909.101 holds the next call's too: 14:05:15 and 14:07:15."""
    rows = [found("1", 6, 120), found("2", 126, 20)]
    for after in (125, 7200, 10 * 86400):
        for said in (event(UNIQUEID, after=after), event(after=after, dated=False)):
            assert mine(rows, NO_END, said) == ["1"]


def test_without_talk_only_the_first_one_is_the_calls() -> None:
    silent = NO_END.model_copy(update={"talk_seconds": None})
    assert mine([found("1", 6, 3), found("2", 7, 9)], silent, event(after=7200)) == ["1"]


def test_an_undated_event_never_gets_the_recording_of_a_later_call() -> None:
    later = found("other call", 2 * 86400)
    for call in (OUTBOUND, INBOUND, NO_END):
        for said in (event(None, "12345", 2 * 86400 + 600, dated=False), event(after=3 * 86400, dated=False)):
            assert mine([later], call, said) == []
            assert mine([found("own", 6), later], call, said) == ["own"]


@pytest.mark.parametrize("after", [2400, 5000, 86400])
def test_a_second_call_within_the_hour_is_not_taken_for_the_first(after: float) -> None:
    second = found("second", 1800)
    for dated in (True, False):
        said = event(after=after, dated=dated)
        assert mine([found("own", 6), second], INBOUND, said) == ["own"]
    assert mine([second], INBOUND, event(after=5000, dated=False)) is None


def test_a_caller_who_waited_long_has_its_recording_if_the_event_is_not_late() -> None:
    waited = found("own", 900, 60)
    call = INBOUND.model_copy(update={"talk_seconds": 60})
    for said in (event(after=965), event(after=1500)):
        assert mine([waited], call, said) == ["own"]
    for said in (event(after=4000), event(after=965, dated=False)):
        assert mine([waited], call, said) is None
    assert mine([waited], call, event(UNIQUEID, after=4000)) == ["own"]


def test_dead_time_of_an_inbound_call_belongs_to_it_until_the_event() -> None:
    rows = [found("talk", 6), found("dead time", 170, 30)]
    assert mine(rows, INBOUND, event(after=210)) == ["talk", "dead time"]
    assert mine(rows, INBOUND, event(ended=200)) == ["talk", "dead time"]
    assert mine(rows, INBOUND, event(after=165)) == ["talk"]
    for said in (event(after=210, dated=False), event(after=7200)):
        assert mine(rows, INBOUND, said) is None  # it may be of a next call
    assert mine(rows, INBOUND, event(UNIQUEID, after=7200, dated=False)) == ["talk", "dead time"]


def test_what_began_before_the_call_and_did_not_last_into_it_is_of_the_call_before() -> None:
    own_row = found("own", 1)
    for before in (found("before", -4, 3), found("before", -4, 0), found("before", -4, None)):
        for call in (OUTBOUND, INBOUND):
            assert mine([before, own_row], call, event()) == ["own"]
    assert mine([found("dialling", -4, 100), own_row], OUTBOUND, event()) == ["own", "dialling"]


def test_an_event_from_before_the_end_of_the_talk_bounds_nothing() -> None:
    for when in (datetime.min.replace(tzinfo=UTC), STARTED, STARTED + timedelta(seconds=5)):
        assert mine([found("1", 6), found("2", 100)], INBOUND, event(after=when)) == ["1", "2"]


ROWS = st.lists(
    st.builds(
        found,
        st.uuids().map(str),
        st.integers(-300, 50_000),
        st.none() | st.integers(0, 300),
        st.sampled_from(["1000", "1001", "VDAD"]),
        st.sampled_from(["12345", "9", None]),
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(
    ROWS,
    st.sampled_from([OUTBOUND, INBOUND, NO_END]),
    st.integers(0, 300) | st.none(),
    st.integers(0, 100_000),
    st.booleans(),
    st.sampled_from([None, UNIQUEID]),
)
def test_no_row_is_taken_from_outside_the_call(
    rows: list[FoundRecording],
    call: CallRecord,
    talk: int | None,
    after: int,
    dated: bool,  # noqa: FBT001 - drawn
    uniqueid: str | None,
) -> None:
    call = call.model_copy(update={"talk_seconds": talk})
    said = event(uniqueid, after=after, dated=dated)
    mine = match_to_call(rows, call, said, build_searches(call, said, NEW_YORK)[0]) or []
    for row in mine:
        began = row.recording.started_at
        assert began is not None
        assert STARTED - timedelta(seconds=10) <= began <= STARTED + timedelta(hours=12)
        assert call is not OUTBOUND or began <= HUNG_UP
        assert (row.agent_user, row.lead_id or "12345") == ("1000", "12345")
    lengths = [each.recording.duration_seconds or 0 for each in mine]
    assert lengths == sorted(lengths, reverse=True)
