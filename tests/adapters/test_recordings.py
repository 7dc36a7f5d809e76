"""Which recordings belong to a call: never those of another one."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.events import Event, EventType
from worker.core.records import CallRecord, Recording
from worker.vicidial.extras import FoundRecording
from worker.vicidial.recordings import lead_of, own, searches

NEW_YORK = ZoneInfo("America/New_York")
STARTED = datetime(2026, 11, 20, 14, 5, 9, tzinfo=NEW_YORK)
ENDED = STARTED + timedelta(seconds=125)
CALL = CallRecord(call_id="V1", started_at=STARTED, talk_seconds=120, agent_user="1000")


def event(
    uniqueid: str | None = None, lead_id: str | None = None, when: datetime = ENDED, *, dated: bool = True
) -> Event:
    return Event(EventType.CALL_ENDED, "e1", when, "V1", {}, dated, None, uniqueid, lead_id)


def found(
    number: str, after: float, seconds: int | None = 120, user: str = "1000", lead: str | None = "12345"
) -> FoundRecording:
    """Make a row of which the recording begins so many seconds after the call."""
    started = STARTED + timedelta(seconds=after)
    return FoundRecording(
        Recording(recording_id=number, started_at=started, duration_seconds=seconds), user, lead
    )


def numbers(rows: list[FoundRecording]) -> list[str | None]:
    return [each.recording.recording_id for each in rows]


# --- what is searched for


BY_AGENT = [(("agent_user", "1000"), ("date", "2026-11-20"))]


def test_the_narrowest_search_there_is_is_made() -> None:
    assert searches(CALL, event("1795269909.101", "12345"), NEW_YORK) == [(("uniqueid", "1795269909.101"),)]
    assert searches(CALL, event(None, "12345"), NEW_YORK) == [(("lead_id", "12345"),)]
    assert searches(CALL, event(), NEW_YORK) == BY_AGENT


@pytest.mark.parametrize("uniqueid", ["1795269909", "179526.1", "1795269909.1;x", "x", "SIP/100-0001"])
def test_what_the_dialer_would_change_is_not_searched_for(uniqueid: str) -> None:
    assert searches(CALL, event(uniqueid, "12a"), NEW_YORK) == BY_AGENT
    assert searches(CALL.model_copy(update={"agent_user": "josé"}), event(), NEW_YORK) == []


def test_a_call_over_midnight_is_searched_for_on_both_days() -> None:
    late = CALL.model_copy(update={"started_at": datetime(2026, 11, 20, 23, 59, tzinfo=NEW_YORK)})
    over = event(when=datetime(2026, 11, 21, 5, 3, tzinfo=UTC))
    days = [dict(search)["date"] for search in searches(late, over, NEW_YORK)]
    assert days == ["2026-11-20", "2026-11-21"]


@pytest.mark.parametrize(
    "unknown", [{"agent_user": None}, {"started_at": None}], ids=["nobody took it", "no start"]
)
def test_where_no_row_could_be_told_apart_none_is_searched_for(unknown: dict[str, None]) -> None:
    call = CALL.model_copy(update=unknown)
    assert searches(call, event("1795269909.101", "12345"), NEW_YORK) == []
    assert own([found("1", 6)], call, event()) == []


def test_an_agents_day_is_not_searched_where_nobody_said_when_the_call_ended() -> None:
    assert searches(CALL, event(dated=False), NEW_YORK) == []
    known = CALL.model_copy(update={"ended_at": ENDED})
    assert searches(known, event(dated=False), NEW_YORK) == BY_AGENT


# --- which rows are the call's own


def test_they_are_the_agents_within_the_call_the_longest_first() -> None:
    rows = [
        found("short", 10, 5),
        found("long", 6),
        found("unknown", 8, None),
        found("other agent", 6, user="1001"),
        found("before", -2),
        found("after", 126),
    ]
    assert numbers(own(rows, CALL, event())) == ["long", "short", "unknown"]


def test_the_next_call_of_the_same_second_and_agent_is_another_one() -> None:
    """The recorded answer to `uniqueid` 1795269909.101 holds both: 14:05:15 and 14:07:15."""
    rows = [found("1", 6, 120), found("2", 126, 20)]
    much_later = event(when=ENDED + timedelta(hours=2))
    assert numbers(own(rows, CALL, much_later)) == ["1"]


def test_without_talk_only_the_first_one_is_the_calls() -> None:
    silent = CALL.model_copy(update={"talk_seconds": None})
    rows = [found("1", 6, 3), found("2", 7, 9)]
    assert numbers(own(rows, silent, event(when=ENDED + timedelta(hours=2)))) == ["1"]


def test_a_row_of_another_lead_is_another_calls_and_one_of_no_lead_is_not_known_to_be() -> None:
    rows = [found("1", 6, 30, lead="777"), found("2", 6, 20, lead=None), found("3", 6, 10)]
    assert numbers(own(rows, CALL, event(lead_id="12345"))) == ["2", "3"]


def test_the_agents_name_is_the_same_in_any_case_of_letters() -> None:
    call = CALL.model_copy(update={"agent_user": "Jane"})
    assert numbers(own([found("1", 6, user="jane")], call, event())) == ["1"]


def test_a_row_without_a_time_is_nobodys() -> None:
    row = FoundRecording(Recording(recording_id="1"), "1000", "12345")
    assert own([row], CALL, event()) == []


def test_the_lead_is_told_where_all_rows_agree() -> None:
    assert lead_of([found("1", 6), found("2", 7)]) == "12345"
    assert lead_of([found("1", 6), found("2", 7, lead="9")]) is None
    assert lead_of([found("1", 6, lead=None)]) is None
    assert lead_of([]) is None


ROWS = st.lists(
    st.builds(
        found,
        st.uuids().map(str),
        st.integers(-300, 600),
        st.none() | st.integers(0, 300),
        st.sampled_from(["1000", "1001"]),
        st.sampled_from(["12345", "9", None]),
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(ROWS, st.integers(0, 300) | st.none())
def test_no_row_is_taken_from_outside_the_call(rows: list[FoundRecording], talk: int | None) -> None:
    call = CALL.model_copy(update={"talk_seconds": talk})
    mine = own(rows, call, event())
    starts = [each.recording.started_at for each in mine if each.recording.started_at is not None]
    assert len(starts) == len(mine)
    assert all(STARTED - timedelta(seconds=1) <= each <= ENDED for each in starts)
    assert all(each.agent_user == "1000" for each in mine)
    if starts:
        assert max(starts) - min(starts) < timedelta(seconds=max(1, talk or 0))
    lengths = [each.recording.duration_seconds or 0 for each in mine]
    assert lengths == sorted(lengths, reverse=True)
