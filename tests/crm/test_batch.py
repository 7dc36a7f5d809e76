# ruff: noqa: ANN401 - bodies are any JSON
"""Batches: what is sent together, and how one answer is divided among the deliveries."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.crm.conversation import Talk, batch_answer, ok, plan_of, preset, with_step
from worker.core.errors import DeliveryRejected, DeliveryUnavailable, FailureKind, MappingFailed
from worker.crm.answers import Answer
from worker.crm.batch import Collector
from worker.crm.memory import Memory
from worker.crm.steps import Done, HttpRequest

KEY = "V1201405090000012345"
BATCH: dict[str, Any] = {
    "max": 3,
    "wait": "20ms",
    "at": "data.inputs",
    "results": "{{ body.results }}",
    "errors": "{{ body.errors }}",
    "match": "{{ result.key }}",
    "each": [{"when": "{{ result.why }}", "means": "bad", "say": "{{ result.why }}"}],
}


def batched(**changes: Any) -> Any:
    """Return the small preset with a batched record."""
    batch = {name: value for name, value in {**BATCH, **changes}.items() if value is not None}
    steps = with_step(
        "record",
        post="/calls/batch",
        body={"data": {"inputs": [{"key": "{{ key }}"}]}, "mode": "all"},
        take={"id": "{{ result.id }}"},
        batch=batch,
    )
    return preset(on_call=steps[1:2], receipt={"id": "{{ record.id }}"})


def run(*answers: Answer, **changes: Any) -> Done:
    return Talk({"record": list(answers)}, batched(**changes)).run()


# --- how an answer is divided ---------------------------------------------------------------------


def test_an_item_finds_its_own_result_by_its_key() -> None:
    body = {"results": [{"key": "other", "id": "1"}, {"key": KEY, "id": "2"}]}
    assert run(batch_answer(ok(body), 0, 2)).receipt == {"id": "2"}


def test_a_result_that_names_no_key_belongs_to_an_item_that_is_alone() -> None:
    assert run(batch_answer(ok({"results": [{"id": "2"}]}), 0, 1)).receipt == {"id": "2"}
    assert run(ok({"results": [{"id": "2"}]})).receipt == {"id": "2"}, "as in the tests of a preset"


def test_without_keys_results_are_in_order() -> None:
    body = {"results": [{"id": "1"}, {"id": "2"}]}
    assert run(batch_answer(ok(body), 1, 2), match=None).receipt == {"id": "2"}
    with pytest.raises(DeliveryUnavailable, match="no result for this item"):
        run(batch_answer(ok(body), 1, 3), match=None)


@pytest.mark.parametrize(
    "body", [{"results": [{"key": "other", "id": "1"}]}, {"results": 7}, {"results": [7]}, {}, [1]]
)
@pytest.mark.parametrize("count", [1, 2])
def test_an_item_without_a_result_is_tried_again(body: Any, count: int) -> None:
    with pytest.raises(DeliveryUnavailable, match="no result for this item") as caught:
        run(batch_answer(ok(body), 0, count))
    assert caught.value.kind is FailureKind.OUTAGE


@pytest.mark.parametrize("text", ["<html>", '{"results": [{"id": NaN}]}'])
def test_an_answer_that_is_no_json_leaves_the_outcome_unknown(text: str) -> None:
    with pytest.raises(DeliveryUnavailable, match="its body is no JSON, so that the outcome is unknown"):
        run(batch_answer(Answer.read(200, {}, text), 0, 1))


def test_an_item_that_failed_alone_is_rejected_with_its_own_reason() -> None:
    body = {"results": [{"key": "other", "id": "1"}], "errors": [{"key": KEY, "why": "no such owner"}]}
    with pytest.raises(DeliveryRejected, match="answered 207 to the step record: no such owner"):
        run(batch_answer(ok(body, 207), 0, 2))


def test_a_batch_that_is_refused_as_a_whole_is_sent_again_one_by_one() -> None:
    talk = Talk(
        {"record": [batch_answer(ok({}, 400), 0, 2), ok({"results": [{"key": KEY, "id": "2"}]})]}, batched()
    )
    assert talk.run().receipt == {"id": "2"}
    assert [request.batch.max for request in talk.requests if request.batch] == [3, 1]
    with pytest.raises(DeliveryRejected):
        run(batch_answer(ok({}, 400), 0, 2), batch_answer(ok({}, 400), 0, 1))


def test_a_duplicate_in_a_whole_batch_is_looked_for_one_by_one() -> None:
    steps = [step.model_dump(exclude_none=True) for step in batched().preset.on_call]
    rule = {"status": 409, "means": "duplicate", "take": {"id": "{{ body.id }}"}}
    compiled = preset(on_call=steps, answers=[rule], receipt={"id": "{{ record.id }}"})
    alone = batch_answer(ok({"id": "7"}, 409), 0, 1)
    talk = Talk({"record": [batch_answer(ok({"id": "8"}, 409), 0, 2), alone]}, compiled)
    assert talk.run() == Done("duplicate", {"id": "7"})


@pytest.mark.parametrize(
    "reply", [batch_answer(ok({}, 500), 0, 2), DeliveryUnavailable("lost"), batch_answer(ok({}), 0, 2)]
)
def test_what_failed_in_a_batch_is_sent_alone_next_time(reply: Any) -> None:
    """One of the items may be why, and must not take the others with it again and again."""
    talk = Talk({"record": [reply]}, batched())
    with pytest.raises(DeliveryUnavailable) as caught:
        talk.run()
    again = Talk({"record": [ok({"results": [{"id": "2"}]})]}, batched(), progress=caught.value.progress)
    assert again.run().receipt == {"id": "2"}
    assert [request.batch.max for request in again.requests if request.batch] == [1]


@pytest.mark.parametrize("text", ["{}", "<html>"])
def test_a_batch_that_failed_as_a_whole_is_one_failure(text: str) -> None:
    answer = Answer.read(500 if text == "{}" else 200, {}, text)
    for position in (0, 1):
        of_item = replace(batch_answer(answer, position, 2), reported=position > 0)
        with pytest.raises(DeliveryUnavailable) as caught:
            run(of_item)
        assert caught.value.shared == (position > 0)


def test_an_item_that_failed_by_itself_is_a_failure_of_its_own() -> None:
    answer = replace(batch_answer(ok({"results": [{"key": "other"}]}), 1, 2), reported=True)
    with pytest.raises(DeliveryUnavailable) as caught:
        run(answer)
    assert not caught.value.shared


def test_a_batch_that_came_too_early_stays_one() -> None:
    with pytest.raises(DeliveryUnavailable) as caught:
        run(batch_answer(ok({}, 429), 0, 2))
    assert caught.value.progress is None


def test_a_whole_batch_may_be_partial_busy_or_in_trouble() -> None:
    rule = {"status": 207, "means": "partial"}
    steps = [{**batched().preset.on_call[0].model_dump(exclude_none=True), "answers": [rule]}]
    compiled = preset(on_call=steps, receipt={"id": "{{ record.id }}"})
    answer = batch_answer(ok({"results": [{"key": KEY, "id": "2"}]}, 207), 0, 2)
    assert Talk({"record": [answer]}, compiled).run().receipt == {"id": "2"}
    for status, kind in ((429, FailureKind.BUSY), (500, FailureKind.OUTAGE), (403, FailureKind.REFUSED)):
        with pytest.raises(DeliveryUnavailable) as caught:
            run(batch_answer(ok({}, status), 0, 2))
        assert caught.value.kind is kind


def test_a_wait_of_the_whole_counts_also_if_the_items_are_judged() -> None:
    compiled, memory = batched(), Memory(clock=lambda: 0.0)
    steps = [step.model_dump(exclude_none=True) for step in compiled.preset.on_call]
    rule = {"status": "2xx", "means": "done", "wait": "10m"}
    talk = Talk({}, preset(on_call=steps, answers=[rule], receipt={"id": "{{ record.id }}"}), memory)
    talk.answers = {"record": [ok({"results": [{"key": KEY, "id": "2"}]})]}
    talk.run()
    assert memory.wait(None) == timedelta(minutes=10)


# --- what is sent together ------------------------------------------------------------------------


def request(key: str, kind: int = 1, **changes: Any) -> HttpRequest:
    batch = plan_of(batched(**changes)).on_call[0].batch
    body = {"data": {"inputs": [{"key": key}], "kind": kind}, "mode": "all"}
    return HttpRequest("record", "POST", "https://crm.example/batch", "/batch", {}, {}, body, batch=batch)


class Crm:
    """Answers batches, and remembers them."""

    def __init__(self, reply: Callable[[HttpRequest], Answer] = lambda _: ok({"n": 1})) -> None:
        self.bodies: list[Any] = []
        self._reply = reply
        self.collector = Collector(self._send)

    async def _send(self, sent: HttpRequest) -> Answer:
        self.bodies.append(json.loads(json.dumps(sent.body)))
        await asyncio.sleep(0)
        return self._reply(sent)

    async def send(self, asked: HttpRequest) -> Answer:
        assert asked.batch is not None
        return await self.collector.send(asked, asked.batch)


def keys(body: Any) -> list[str]:
    return [item["key"] for item in body["data"]["inputs"]]


async def test_what_comes_within_the_wait_is_sent_together_and_each_knows_its_place() -> None:
    crm = Crm()
    answers = await asyncio.gather(*(crm.send(request(key)) for key in "ab"))
    assert crm.bodies == [{"data": {"inputs": [{"key": "a"}, {"key": "b"}], "kind": 1}, "mode": "all"}]
    assert [answer.position for answer in answers] == [0, 1]
    first, second = answers
    assert first.shared is second.shared
    assert first.shared is not None
    assert first.shared.count == 2


async def test_a_full_batch_does_not_wait() -> None:
    crm = Crm()
    await asyncio.gather(*(crm.send(request(key, wait="200ms")) for key in "abcdef"))
    assert [keys(body) for body in crm.bodies] == [["a", "b", "c"], ["d", "e", "f"]]


async def test_a_batch_is_sent_when_nobody_adds_to_it_and_at_the_latest_after_its_wait() -> None:
    crm = Crm()
    loop = asyncio.get_running_loop()
    begun, asked = loop.time(), request("a")
    assert asked.batch is not None
    long = replace(asked, batch=replace(asked.batch, wait=timedelta(seconds=10)))
    await crm.send(long)
    assert loop.time() - begun < 9
    tasks = []
    for _ in range(40):  # one each 5 ms
        tasks.append(asyncio.create_task(crm.send(request("b", wait="100ms", max=1000))))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    assert len(crm.bodies) >= 1 + 2


async def test_what_differs_in_more_than_its_items_is_not_sent_together() -> None:
    crm = Crm()
    await asyncio.gather(
        crm.send(request("a")), crm.send(request("b", kind=2)), crm.send(request("c", max=1))
    )
    assert sorted(keys(body)[0] for body in crm.bodies) == ["a", "b", "c"]


async def test_the_body_itself_may_be_the_list() -> None:
    crm = Crm()
    batch = plan_of(batched(at="")).on_call[0].batch
    assert batch is not None
    asked = [HttpRequest("r", "POST", "https://x", "/", {}, {}, [key], batch=batch) for key in "ab"]
    await asyncio.gather(*(crm.send(each) for each in asked))
    assert crm.bodies == [["a", "b"]]


@pytest.mark.parametrize("body", [None, {}, {"data": {"inputs": []}}, {"data": {"inputs": {}}}, {"data": 7}])
async def test_a_body_without_items_can_not_be_sent(body: Any) -> None:
    asked = request("a")
    with pytest.raises(MappingFailed, match=r"record\.body: there is no list of items at data\.inputs"):
        await Crm().send(HttpRequest("record", "POST", "u", "/", {}, {}, body, batch=asked.batch))


@pytest.mark.parametrize(
    "error", [DeliveryUnavailable("down"), MappingFailed("too deep"), RuntimeError("bug")]
)
async def test_each_delivery_gets_the_failure_of_its_batch_as_an_error_of_its_own(error: Exception) -> None:
    def fail(_: HttpRequest) -> Answer:
        raise error

    crm = Crm(fail)
    found = await asyncio.gather(*(crm.send(request(key)) for key in "ab"), return_exceptions=True)
    assert [(type(each), str(each)) for each in found] == [(type(error), str(error))] * 2
    assert isinstance(error, RuntimeError) or found[0] is not found[1]
    if isinstance(error, DeliveryUnavailable):
        assert [each.shared for each in found if isinstance(each, DeliveryUnavailable)] == [False, True]


async def test_a_delivery_that_is_cancelled_leaves_the_others_alone() -> None:
    crm = Crm()
    cancelled = asyncio.create_task(crm.send(request("a")))
    kept = asyncio.create_task(crm.send(request("b")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await kept
    assert [keys(body) for body in crm.bodies] == [["b"]]
    alone = asyncio.create_task(crm.send(request("c")))
    await asyncio.sleep(0)
    alone.cancel()
    await crm.send(request("d", kind=2))
    assert [keys(body) for body in crm.bodies] == [["b"], ["d"]]


async def test_closing_ends_what_is_collected_and_what_is_sent() -> None:
    begun = asyncio.Event()

    async def hang(_: HttpRequest) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    collector = Collector(hang)
    asked, full = request("a", wait="200ms"), request("b", max=1)
    assert asked.batch is not None
    assert full.batch is not None
    waiting = asyncio.create_task(collector.send(asked, asked.batch))
    sending = asyncio.create_task(collector.send(full, full.batch))
    await begun.wait()
    await collector.close()
    found = await asyncio.gather(waiting, sending, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError] * 2
