"""What is known of refused logins."""

import pytest

from worker.core.logins import MOST_FAILURES, Login, Logins

REFUSED = Logins("no", tried_at=10.0, tried="a", failures=(10.0,), passwords={"a": 10.0})


def test_a_refusal_stands_until_a_lone_try_succeeds() -> None:
    known = Logins().after(Login("refused", 9.0, 10.0, "a", lone=False, message="no"))
    assert known == REFUSED
    assert known.after(Login("accepted", 9.0, 11.0, "a", lone=False)) == REFUSED, "sent before the refusal"
    assert known.after(Login("accepted", 20.0, 21.0, "b", lone=True)) == Logins()


def test_an_unanswered_login_counts_only_while_a_refusal_stands() -> None:
    assert Logins().after(Login("unanswered", 9.0, 10.0, "a", lone=False)) == Logins()
    known = REFUSED.after(Login("unanswered", 9.0, 11.0, "a", lone=False))
    assert (known.failures, known.tried_at, known.passwords) == ((10.0, 11.0), 10.0, {"a": 10.0})
    known = REFUSED.after(Login("unanswered", 30.0, 31.0, "a", lone=True))
    assert (known.tried_at, known.passwords) == (31.0, {"a": 31.0})


def test_what_is_remembered_is_bounded() -> None:
    known = REFUSED
    for number in range(200):
        known = known.after(Login("refused", 0.0, float(number), f"p{number}", lone=True, message="x" * 9999))
    assert len(known.failures) == MOST_FAILURES
    assert len(known.passwords) == 16
    assert known.tries == 100
    assert len(known.message or "") == 500


def test_it_is_the_same_after_a_journey_and_no_time_is_in_the_future() -> None:
    assert Logins.from_dict(REFUSED.to_dict()) == REFUSED
    assert Logins.from_dict(Logins().to_dict()) == Logins()
    assert REFUSED.shifted(5.0).no_later_than(12.0) == Logins("no", 12.0, "a", 0, (12.0,), {"a": 12.0})
    assert Login("refused", 1.0, 2.0, "a", lone=True).shifted(1.0) == Login(
        "refused", 2.0, 3.0, "a", lone=True
    )


@pytest.mark.parametrize(("lone", "tried_at"), [(False, 10.0), (True, 50.0)])
def test_what_a_lost_worker_had_under_way_may_have_failed(lone: bool, tried_at: float) -> None:  # noqa: FBT001 - a case
    known = REFUSED.in_doubt(3, 50.0, lone=lone)
    assert known.failures == (10.0, 50.0, 50.0, 50.0)
    assert known.tried_at == tried_at
    assert len(REFUSED.in_doubt(10**9, 50.0, lone=False).failures) == MOST_FAILURES
