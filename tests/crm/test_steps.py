# ruff: noqa: ANN401 - answers are any JSON
"""Carrying out a preset: which requests are made, what is remembered, and which error ends it."""

from datetime import timedelta
from typing import Any

import pytest

from tests.crm.conversation import (
    AGENT,
    BASE,
    LOGIN,
    WITH_LOGIN,
    Talk,
    access,
    ok,
    plan_of,
    preset,
    with_step,
)
from worker.core.errors import (
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    FailureKind,
    MappingFailed,
    SinkLoginRefused,
)
from worker.crm.answers import Answer
from worker.crm.memory import Memory
from worker.crm.progress import MAX_PROGRESS, Progress
from worker.crm.steps import (
    Access,
    Done,
    checked_address,
    log_in,
)

FOUND = ok({"id": "501"})
NONE = ok({})
CREATED = ok({"id": "9", "new": True}, 201)
KEY = "V1201405090000012345"


def good(**more: Any) -> dict[str, Any]:
    return {"contact": [FOUND], "record": [CREATED], "link": [ok()], **more}


# --- the good way ---------------------------------------------------------------------------------


def test_the_steps_are_done_in_order_and_a_later_one_uses_the_results_of_those_before() -> None:
    talk = Talk(good())
    done = talk.run()
    assert done == Done("created", {"id": "9", "new": True, "linked": "501"})
    contact, record, link = talk.requests
    assert (contact.method, contact.url) == ("GET", "https://crm.example/api/contacts")
    assert contact.query == {"phone": "3125551212", "deep": '{"a":[1]}'}, "null is left out"
    assert contact.headers == {"Authorization": "Bearer t0ken-t0ken"}
    assert (contact.body, contact.form) == (None, None)
    assert (record.method, record.path) == ("POST", f"/calls/{KEY}")
    assert record.body == {"key": KEY, "contact": "501"}
    assert (link.method, link.url) == ("PUT", "https://crm.example/api/calls/9/contacts/501")


def test_a_step_whose_condition_is_not_true_is_left_out_and_its_results_are_null() -> None:
    talk = Talk(good())
    done = talk.run(phone_number=None)
    assert talk.asked == ["record"]
    assert talk.requests[0].body == {"key": KEY}
    assert done.receipt == {"id": "9", "new": True}


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (ok({"id": "9", "new": True}), "created"),
        (ok({"id": "9", "new": False}), "updated"),
        (ok({"id": "9"}), "created"),
        (ok({"id": "9"}, 409), "duplicate"),
    ],
)
def test_the_outcome_says_what_became_of_the_record(record: Answer, outcome: str) -> None:
    steps = with_step("record", answers=[{"status": 409, "means": "duplicate"}])
    talk = Talk(good(record=[record]), preset(on_call=steps))
    done = talk.run()
    assert (done.outcome, done.receipt["id"]) == (outcome, "9")
    assert talk.asked == ["contact", "record", "link"], "what a crash may have left undone is done"


def test_a_record_that_is_known_is_not_made_again() -> None:
    known = {"step": "known", "get": "/calls", "take": {"id": "{{ body.id }}"}}
    record = {"when": "{{ not known.id }}", "repeat": "search"}
    first, *others = with_step("record", **record)
    compiled = preset(on_call=[first, known, *others], receipt={"id": "{{ record.id or known.id }}"})
    talk = Talk(good(known=[ok({"id": "7"})]), compiled)
    assert talk.run() == Done("duplicate", {"id": "7"})
    assert talk.asked == ["contact", "known", "link"]


def test_a_call_that_the_preset_skips_is_delivered_without_a_request() -> None:
    talk = Talk({}, preset(skip_when="{{ call.status == 'NA' }}"))
    done = talk.run(status="NA")
    assert (done, done.asked) == (Done("skipped", {}), False)
    assert talk.requests == []
    assert Talk(good(), talk.compiled).run(status="SALE").asked


def test_an_agents_event_has_steps_and_a_receipt_of_its_own() -> None:
    talk = Talk({"user": [ok({"id": "77"})]}, kind=AGENT)
    assert talk.run() == Done("done", {"id": "77"})
    assert talk.requests[0].query == {"name": "agent001"}
    assert Talk({}, preset(agent_receipt={}), kind=AGENT).run() == Done("done", {})
    assert Talk({}, preset(on_agent=[], agent_receipt={}), kind=AGENT).run() == Done("skipped", {})


def test_results_that_are_no_plain_values_are_dropped() -> None:
    talk = Talk(good(contact=[ok({"id": {"a": 1}})]))
    assert talk.run().receipt == {"id": "9", "new": True}


# --- what is remembered ---------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_results_are_cached_for_as_long_as_the_preset_says() -> None:
    cached = with_step("contact", cache={"by": "{{ number.digits }}", "found": "10m", "missing": "1m"})
    compiled, clock = preset(on_call=cached), Clock()
    memory = Memory(clock=clock)

    def searched(*answers: Answer, **changes: Any) -> bool:
        talk = Talk(good(contact=list(answers)), compiled, memory)
        talk.run(**changes)
        return "contact" in talk.asked

    assert searched(FOUND)
    assert not searched()
    assert searched(NONE, phone_number="4155550000"), "another number"
    assert not searched(phone_number="4155550000")
    clock.now = 61.0
    assert searched(NONE, phone_number="4155550000"), "a miss is remembered for less long"
    assert not searched()
    clock.now = 601.0
    assert searched(FOUND)


def test_without_a_key_nothing_is_cached() -> None:
    cached = with_step("contact", cache={"by": "{{ event.nothing }}", "found": "10m", "missing": "1m"})
    compiled, memory = preset(on_call=cached), Memory()
    for _ in range(2):
        talk = Talk(good(), compiled, memory)
        talk.run()
        assert talk.asked == ["contact", "record", "link"]


def test_the_cache_is_bounded() -> None:
    memory = Memory(most=2, clock=lambda: 0.0)
    for key in ("a", "b", "c"):
        memory.keep("contact", key, {"id": key}, timedelta(minutes=1))
    assert [memory.recall("contact", key) for key in ("a", "b", "c")] == [None, {"id": "b"}, {"id": "c"}]


def test_a_learned_row_is_used_by_the_calls_after_it() -> None:
    user = {**BASE["on_agent"][0]}
    user["learn"] = {"table": "owners", "key": "{{ agent.agent_user }}", "value": "{{ user.id }}"}
    steps = with_step("record", body={"owner": "{{ call.agent_user | table('owners') }}"})
    compiled = preset(on_call=steps, on_agent=[user], tables={"owners": {"2000": "o2"}})
    before = Talk(good(), compiled)
    before.run(agent_user="agent001")
    assert before.requests[1].body is None
    Talk({"user": [ok({"id": "77"})]}, compiled, kind=AGENT).run()
    after = Talk(good(), compiled)
    after.run(agent_user="agent001")
    assert after.requests[1].body == {"owner": "77"}


# --- progress -------------------------------------------------------------------------------------


def unavailable(error: type[DeliveryUnavailable] | None = None, **said: Any) -> DeliveryUnavailable:
    return (error or DeliveryUnavailable)("no answer", **said)


def test_what_was_done_is_not_done_again_after_a_failure() -> None:
    first = Talk(good(link=[unavailable()]))
    with pytest.raises(DeliveryUnavailable, match="no answer") as caught:
        first.run()
    assert caught.value.delivered
    assert caught.value.progress is not None
    assert len(caught.value.progress.encode()) <= MAX_PROGRESS
    again = Talk({"link": [ok()]}, progress=caught.value.progress)
    assert again.run() == Done("created", {"id": "9", "new": True, "linked": "501"})
    assert again.asked == ["link"]


def test_before_the_record_is_written_nothing_is_delivered() -> None:
    talk = Talk(good(record=[unavailable()]))
    with pytest.raises(DeliveryUnavailable) as caught:
        talk.run()
    assert not caught.value.delivered
    assert Progress.read("example", caught.value.progress).results == {"contact": {"id": "501"}}


def test_a_search_that_found_nothing_is_made_again() -> None:
    talk = Talk(good(contact=[NONE], record=[unavailable()]))
    with pytest.raises(DeliveryUnavailable) as caught:
        talk.run()
    assert caught.value.progress is None


def test_the_record_counts_as_done_even_if_it_has_no_results() -> None:
    contact, record, link = with_step("link", put="/calls/{{ key }}/contacts/{{ contact.id }}")
    record = {name: value for name, value in record.items() if name != "take"}
    compiled = preset(on_call=[contact, record, link], receipt={"id": "x"})
    with pytest.raises(DeliveryUnavailable) as caught:
        Talk(good(link=[unavailable()]), compiled).run()
    again = Talk({"link": [ok()]}, compiled, progress=caught.value.progress)
    again.run()
    assert again.asked == ["link"]


@pytest.mark.parametrize(
    "progress",
    [None, "", "{", "[]", "7", '{"crm":"e"}', '{"crm":"e","steps":7}', '{"crm":"e","steps":{"a":7}}'],
)
def test_progress_that_can_not_be_read_is_none(progress: str | None) -> None:
    assert Progress.read("e", progress) == Progress()


def test_progress_of_another_crm_is_none() -> None:
    done = Progress({"record": {"id": "1"}})
    assert Progress.read("other", done.written("other")) == done
    assert Progress.read("example", done.written("other")) == Progress()


def test_progress_is_bounded_and_keeps_the_record_before_all() -> None:
    results = {"a": {"id": "x" * 900}, "b": {"id": "b"}, "record": {"id": "9" * 300}}
    written = Progress(results).written("example")
    assert written is not None
    assert len(written.encode()) <= MAX_PROGRESS
    assert Progress.read("example", written).results.keys() == {"record", "b"}
    assert Progress().written("example") is None


# --- steps that can be done without ---------------------------------------------------------------


def test_a_search_that_fails_does_not_hold_the_call_up_and_only_the_rest_is_tried_again() -> None:
    first = Talk({"contact": [unavailable()], "record": [CREATED]})
    with pytest.raises(DeliveryIncomplete, match="delivered, but not all of it: no answer") as caught:
        first.run()
    assert first.asked == ["contact", "record"]
    again = Talk({"contact": [FOUND], "link": [ok()]}, progress=caught.value.progress)
    assert again.run() == Done("created", {"id": "9", "new": True, "linked": "501"})
    assert again.asked == ["contact", "link"]


@pytest.mark.parametrize("answer", [ok({"id": 1}, 400), ok({}, 404)], ids=["400", "404"])
def test_a_search_that_is_rejected_is_not_tried_again(answer: Answer) -> None:
    done = Talk(good(contact=[answer])).run()
    assert done.outcome == "created"
    assert len(done.left_out) == 1
    assert "to the step contact" in done.left_out[0]


def test_a_search_that_can_not_be_written_is_left_out() -> None:
    steps = with_step("contact", query={"phone": "{{ event.nothing | required('no number') }}"})
    talk = Talk(good(), preset(on_call=steps))
    done = talk.run()
    assert talk.asked == ["record"]
    assert "no number" in done.left_out[0]


def test_a_refused_login_is_not_passed_over() -> None:
    talk = Talk({"contact": [SinkLoginRefused("wrong key")]})
    with pytest.raises(SinkLoginRefused, match="wrong key"):
        talk.run()
    assert talk.asked == ["contact"]


@pytest.mark.parametrize("answer", [ok({}, 400), MappingFailed("too long")], ids=["rejected", "mapping"])
def test_what_fails_for_good_after_the_record_makes_no_dead_letter(answer: Any) -> None:
    with pytest.raises(DeliveryIncomplete) as caught:
        Talk(good(link=[answer])).run()
    assert Progress.read("example", caught.value.progress).results.keys() == {"contact", "record"}


# --- what answers mean ----------------------------------------------------------------------------

UNAVAILABLE = [
    (301, FailureKind.REFUSED),
    (401, FailureKind.REFUSED),
    (403, FailureKind.REFUSED),
    (408, FailureKind.OUTAGE),
    (425, FailureKind.OUTAGE),
    (429, FailureKind.BUSY),
    (500, FailureKind.OUTAGE),
    (503, FailureKind.OUTAGE),
    (599, FailureKind.OUTAGE),
    (600, FailureKind.OUTAGE),
    (101, FailureKind.OUTAGE),
]


@pytest.mark.parametrize(("status", "kind"), UNAVAILABLE)
def test_what_a_status_means_without_a_rule(status: int, kind: FailureKind) -> None:
    with pytest.raises(DeliveryUnavailable, match=f"answered {status} to the step record") as caught:
        Talk(good(record=[ok({}, status)])).run()
    assert (caught.value.kind, caught.value.answered) == (kind, True)
    assert (caught.value.retry_after == timedelta(0)) is (kind is FailureKind.BUSY)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 422])
def test_other_refusals_are_for_good(status: int) -> None:
    with pytest.raises(DeliveryRejected, match=rf'answered {status} to the step record: \{{"why": "\*\*\*"'):
        Talk(good(record=[ok({"why": "t0ken-t0ken"}, status)])).run()


def test_a_redirect_says_what_to_check() -> None:
    with pytest.raises(DeliveryUnavailable, match="not followed; check the address"):
        Talk(good(record=[ok({}, 302)])).run()


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_a_header_asks_for_is_kept(status: int) -> None:
    answer = Answer.read(status, {"Retry-After": "30"}, "")
    with pytest.raises(DeliveryUnavailable) as caught:
        Talk(good(record=[answer])).run()
    assert (caught.value.kind, caught.value.retry_after) == (FailureKind.BUSY, timedelta(seconds=30))


def record_with(*rules: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return with_step("record", answers=list(rules), **more)


def test_the_first_rule_that_fits_decides_those_of_the_step_before_those_of_the_preset() -> None:
    steps = record_with(
        {"status": "400-404", "when": "{{ body.code == 'LOCKED' }}", "means": "retry"},
        {"status": [400, "5xx"], "means": "busy", "wait": "{{ headers['x-wait'] | number }}"},
    )
    rules = [{"status": 499, "means": "done"}, {"status": "4xx", "means": "refused"}]
    compiled = preset(on_call=steps, answers=rules)

    def kind(answer: Answer) -> tuple[FailureKind, timedelta | None]:
        with pytest.raises(DeliveryUnavailable) as caught:
            Talk(good(record=[answer]), compiled).run()
        return caught.value.kind, caught.value.retry_after

    assert kind(ok({"code": "LOCKED"}, 400)) == (FailureKind.OUTAGE, None)
    assert kind(Answer.read(400, {"X-Wait": "2.5"}, "")) == (FailureKind.BUSY, timedelta(seconds=2.5))
    assert kind(ok({}, 599)) == (FailureKind.BUSY, timedelta(0)), "no number is no wait"
    assert kind(ok({}, 404)) == (FailureKind.REFUSED, None)


@pytest.mark.parametrize(
    ("wait", "expected"),
    [("10s", 10), ("{{ 1.0004 }}", 1.0), ("never", 0), ("{{ true }}", 0), ("{{ 10000000 }}", 0)],
)
def test_a_wait_is_a_duration_or_seconds(wait: str, expected: float) -> None:
    compiled = preset(on_call=record_with({"status": 400, "means": "busy", "wait": wait}))
    with pytest.raises(DeliveryUnavailable) as caught:
        Talk(good(record=[ok({}, 400)]), compiled).run()
    assert caught.value.retry_after == timedelta(seconds=expected)


@pytest.mark.parametrize(("asked", "expected"), [("2 minutes", 120), ("1", 10), ("soon", 10)])
def test_a_longer_wait_that_the_answer_asks_for_wins_over_the_rules(asked: str, expected: float) -> None:
    compiled = preset(on_call=record_with({"status": 429, "means": "busy", "wait": "10s"}))
    with pytest.raises(DeliveryUnavailable) as caught:
        Talk(good(record=[Answer.read(429, {"Retry-After": asked}, "")]), compiled).run()
    assert caught.value.retry_after == timedelta(seconds=expected)


@pytest.mark.parametrize("key", [".", ".."])
def test_a_part_of_a_path_can_not_name_another_address(key: str) -> None:
    with pytest.raises(MappingFailed, match=r"record\.path has a part that is \. or \.\."):
        Talk(good()).run(call_id=key)


def test_the_crms_reason_is_scrubbed_and_short() -> None:
    compiled = preset(on_call=record_with({"status": 400, "means": "bad", "say": "{{ body.why }}"}))
    with pytest.raises(DeliveryRejected) as caught:
        Talk(good(record=[ok({"why": "t0ken-t0ken \x1b[31m" + "x" * 900}, 400)]), compiled).run()
    text = str(caught.value)
    assert text.startswith("the CRM answered 400 to the step record: *** \\x1b[31mxxx")
    assert len(text) < 600


def test_a_duplicates_own_results_replace_the_steps() -> None:
    rule = {"status": 409, "means": "duplicate", "take": {"id": "{{ body.existing }}"}}
    talk = Talk(good(record=[ok({"existing": "4"}, 409)]), preset(on_call=record_with(rule)))
    assert talk.run() == Done("duplicate", {"id": "4", "linked": "501"})
    assert talk.requests[2].path == "/calls/4/contacts/501"


@pytest.mark.parametrize("text", ["", "<html>", "{"])
def test_a_success_whose_results_can_not_be_read_has_an_unknown_outcome(text: str) -> None:
    with pytest.raises(DeliveryUnavailable, match="no JSON, so that the outcome is unknown") as caught:
        Talk(good(record=[Answer.read(200, {}, text)])).run()
    assert caught.value.kind is FailureKind.OUTAGE


def test_a_success_that_is_encoded_names_the_encoding() -> None:
    encoded = Answer.read(200, {"Content-Encoding": "br"}, "")
    with pytest.raises(
        DeliveryUnavailable, match="not be decoded; it is encoded as 'br', so that the outcome"
    ):
        Talk(good(record=[encoded])).run()


def test_a_body_is_not_needed_if_nothing_is_read_from_it_or_a_rule_says_so_or_there_is_none() -> None:
    empty = Answer.read(200, {}, "")
    assert Talk(good(link=[empty])).run().outcome == "created"
    assert Talk(good(contact=[Answer.read(204, {}, "")])).run().outcome == "created"
    rule = {"status": 200, "when": "{{ text == '' }}", "means": "done"}
    assert Talk(good(record=[empty]), preset(on_call=record_with(rule))).run().outcome == "created"


def test_a_success_stays_one_if_its_results_can_not_be_read() -> None:
    steps = with_step("record", take={"id": "{{ body.id | number }}", "new": "{{ body.new }}"})
    compiled = preset(on_call=steps)
    talk = Talk(good(record=[ok({"id": "none"})]), compiled)
    assert talk.run().outcome == "created"
    assert talk.asked == ["contact", "record", "link"]


def test_a_receipt_or_a_row_that_can_not_be_read_fails_nothing_that_is_done() -> None:
    number = "{{ 'x' | number }}"
    learn = {"table": "owners", "key": number, "value": "{{ user.id }}"}
    parts = {"tables": {"owners": {}}, "receipt": {"id": number}, "agent_receipt": {"id": number}}
    compiled = preset(on_agent=[{**BASE["on_agent"][0], "learn": learn}], **parts)
    assert Talk(good(), compiled).run() == Done("created", {})
    assert Talk({"user": [ok({"id": "77"})]}, compiled, kind=AGENT).run() == Done("done", {})


def test_a_busy_search_leaves_its_group_alone_and_a_quota_everything() -> None:
    rules = [{"status": 429, "means": "busy", "wait": "10s"}, {"status": 420, "means": "quota", "wait": "1h"}]
    steps = [{**step, "of": "search"} if step["step"] == "contact" else step for step in BASE["on_call"]]
    compiled, memory = preset(on_call=steps, answers=rules), Memory(clock=lambda: 0.0)
    with pytest.raises(DeliveryIncomplete):
        Talk(good(contact=[ok({}, 429)]), compiled, memory).run()
    assert (memory.wait("search"), memory.wait(None)) == (timedelta(seconds=10), None)
    with pytest.raises(DeliveryIncomplete):
        Talk(good(contact=[ok({}, 420)]), compiled, memory).run()
    assert memory.wait(None) == timedelta(hours=1)


def test_a_success_that_asks_for_a_wait_is_one_and_the_next_waits() -> None:
    clock = Clock()
    memory = Memory(clock=clock)
    rule = {"status": 201, "means": "done", "wait": "10s"}
    assert Talk(good(), preset(answers=[rule]), memory).run().outcome == "created"
    assert memory.wait(None) == timedelta(seconds=10)
    clock.now = 10.0
    assert memory.wait(None) is None


# --- the login ------------------------------------------------------------------------------------


def test_a_login_that_ended_is_renewed_once_and_the_request_repeated() -> None:
    answers = good(contact=[ok({}, 401), FOUND], renew=[access("s2")])
    talk = Talk(answers, preset(**WITH_LOGIN), access=access("s1"))
    assert talk.run().outcome == "created"
    assert [request.headers["X-Login"] for request in talk.requests] == ["s1", "s2", "s2", "s2"]
    assert talk.renewed == 1


def test_a_new_login_that_is_not_accepted_is_a_refusal() -> None:
    talk = Talk(good(record=[ok({}, 401), ok({}, 401)], renew=[access("s2")]), access=access("s1"))
    with pytest.raises(DeliveryUnavailable) as caught:
        talk.run()
    assert (caught.value.kind, talk.renewed) == (FailureKind.REFUSED, 1)


def test_a_login_that_can_not_be_renewed_ends_the_delivery() -> None:
    talk = Talk(good(record=[ok({}, 401)], renew=[SinkLoginRefused("wrong key")]), access=access("s1"))
    with pytest.raises(SinkLoginRefused, match="wrong key") as caught:
        talk.run()
    assert Progress.read("example", caught.value.progress).results == {"contact": {"id": "501"}}


def test_a_delivery_makes_at_most_one_new_login() -> None:
    answers = good(contact=[ok({}, 401), ok({}, 401)], record=[ok({}, 401)], renew=[access("s2")])
    talk = Talk(answers, access=access("s1"))
    with pytest.raises(DeliveryUnavailable) as caught:
        talk.run()
    assert (caught.value.kind, talk.renewed) == (FailureKind.REFUSED, 1)
    assert talk.asked == ["contact", "contact", "record"]


def login(answers: list[Any], **changes: Any) -> Access:
    compiled = preset(login={**LOGIN, **changes})
    talk = Talk({"start": answers}, compiled)
    names = {"settings": compiled.settings}
    found: Access = talk.hold(log_in(plan_of(compiled), names, Memory(), now=lambda: 0.0))
    assert all(request.headers == {} for request in talk.requests), "the preset's headers need the login"
    return found


TOKEN = ok({"t": "tok"})


def test_a_login_gives_its_results_its_life_and_the_address() -> None:
    assert login([TOKEN]) == Access({"token": "tok"}, "https://crm.example/api", timedelta(minutes=10))
    assert login([TOKEN], lifetime="{{ start.u }}").lifetime == timedelta(hours=1)


def test_without_a_login_there_is_only_the_address() -> None:
    compiled = preset()
    talk = Talk({}, compiled)
    names = {"settings": compiled.settings}
    assert talk.hold(log_in(plan_of(compiled), names, Memory())) == Access({}, "https://crm.example/api")


@pytest.mark.parametrize("answer", [ok({}, 401), ok({}, 403), ok({"error": "invalid_client"}, 400)])
def test_a_login_that_is_refused_says_so_after_one_try(answer: Answer) -> None:
    with pytest.raises(SinkLoginRefused, match="the login is refused: the CRM answered 4"):
        login([answer])


@pytest.mark.parametrize("body", [{"t": None}, {"t": ["tok"]}, {"t": "tok\r\nX-Evil: 1"}, []])
def test_a_login_without_a_token_that_can_be_used_is_refused_and_makes_no_dead_letter(body: Any) -> None:
    with pytest.raises(SinkLoginRefused, match="the login can't be made: the answer has"):
        login([ok(body)])


@pytest.mark.parametrize(("status", "kind"), [(500, FailureKind.OUTAGE), (429, FailureKind.BUSY)])
def test_a_login_that_fails_for_now_is_no_refusal(status: int, kind: FailureKind) -> None:
    with pytest.raises(DeliveryUnavailable) as caught:
        login([ok({}, status)])
    assert (type(caught.value), caught.value.kind) == (DeliveryUnavailable, kind)


def test_a_challenge_that_was_overtaken_is_asked_for_once_more() -> None:
    rule = {"status": 200, "when": "{{ body.error }}", "means": "token"}
    steps = [{**LOGIN["steps"][0], "answers": [rule]}]
    assert login([ok({"error": "x"}), TOKEN], steps=steps).login == {"token": "tok"}
    with pytest.raises(SinkLoginRefused):
        login([ok({"error": "x"}), ok({"error": "x"})], steps=steps)


def test_a_login_may_be_elsewhere_and_name_the_address_if_it_is_below_a_known_host() -> None:
    steps = [{**LOGIN["steps"][0], "post": "https://login.example/token"}]

    def url(said: str | None) -> str:
        answer = ok({"t": "tok", "u": said})
        return login([answer], steps=steps, url="{{ start.u }}", hosts=("eu.example",)).url

    assert url("https://a.eu.example") == "https://a.eu.example"
    assert url("https://CRM.example/x/") == "https://CRM.example/x", "the same host as before"
    assert url(None) == "https://crm.example/api"
    for host in ("https://evileu.example", "https://eu.example.evil", "http://a.eu.example"):
        with pytest.raises(SinkLoginRefused, match="the login can't be made"):
            url(host)


def test_a_step_of_a_delivery_is_never_sent_elsewhere() -> None:
    steps = with_step("record", post="https://evil.example/{{ key }}")
    talk = Talk(good(), preset(on_call=steps))
    talk.run()
    assert talk.requests[1].url == f"https://crm.example/api/https://evil.example/{KEY}"


@pytest.mark.parametrize(
    "url",
    [
        "crm.example",
        "ftp://crm.example",
        "http://crm.example",
        "https://",
        "https://x/?a",
        "https://[",
        "https://a\x07",
    ],
)
def test_an_address_is_https_and_complete(url: str) -> None:
    with pytest.raises(MappingFailed, match="the address of the CRM"):
        checked_address(url)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "https://x/a"])
def test_an_address_on_this_machine_need_not_be_https(url: str) -> None:
    assert checked_address(f"{url}/") == url


# --- what can't be written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"body": {"a": "{{ event.nothing | required('no owner') }}"}}, "on_call.record.body.a: no owner"),
        ({"headers": {"X-A": "a\r\nEvil: 1"}}, "record: the header 'X-A' has a line break"),
        ({"post": "{{ event.nothing }}"}, "record.path is null"),
    ],
    ids=["required", "header", "path"],
)
def test_a_record_that_can_not_be_written_says_where(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(MappingFailed, match=place):
        Talk(good(), preset(on_call=with_step("record", **changes))).run()


def test_a_form_has_texts_and_mappings_as_json() -> None:
    steps = with_step("record", body=None, form={"n": 1, "element": {"key": "{{ key }}"}, "flag": True})
    talk = Talk(good(), preset(on_call=steps))
    talk.run()
    assert talk.requests[1].form == {"n": "1", "element": f'{{"key":"{KEY}"}}', "flag": "true"}
