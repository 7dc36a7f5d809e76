"""What is known of refused logins at the dialer: a value without I/O, which all workers can share.

VICIdial counts a user's failed logins since the last good one, and refuses the user after ten within 15
minutes. `docs/politeness.md` has the rules that follow from that.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

MOST_FAILURES = 9
"""The most failed logins in 15 minutes; one more locks the user."""
LOCK = 15 * 60 * 1.02
"""Seconds for which a refused password is not sent again, and in which failed logins are counted.

VICIdial's 15 minutes and 18 s more: it records logins in whole seconds, and may count one a while after we
stopped waiting for its answer.
"""
LONGER = 2.1
"""The factor between two waits without a password file: 5 minutes, then 10.5, then `LOCK`."""
_MOST_PASSWORDS = 16
_MOST_TRIES = 100
_LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Login:
    """How one login ended. An unanswered one counts as failed while a refusal stands."""

    outcome: Literal["accepted", "refused", "unanswered"]
    sent: float
    ended: float
    password: str
    """The fingerprint of the password that was sent."""
    lone: bool
    """Whether it was the lone try after a refusal."""
    message: str = ""
    """The dialer's answer to a refused login, without secrets."""

    def shifted(self, by: float) -> "Login":
        """Return the same in the time of another clock, which shows `by` seconds more."""
        return replace(self, sent=self.sent + by, ended=self.ended + by)


@dataclass(frozen=True, slots=True)
class Logins:
    """The failed logins since the last good one, as far as they matter."""

    message: str | None = None
    """The dialer's answer to the latest refused login; None if no refusal stands."""
    tried_at: float = 0.0
    """When the first login was refused, or the latest lone try ended."""
    tried: str = ""
    """The fingerprint of the password of that login."""
    tries: int = 0
    """How many lone tries were refused."""
    failures: tuple[float, ...] = ()
    """When each login ended that may have failed, the oldest first."""
    passwords: dict[str, float] = field(default_factory=dict)
    """When each refused password was refused last, by its fingerprint."""

    def after(self, login: Login) -> "Logins":
        """Return what is known once this login has ended, too."""
        if login.outcome == "accepted":
            return self._accepted(login)
        if login.outcome == "unanswered" and self.message is None:
            return self
        failures = tuple(sorted((*self.failures, login.ended))[-MOST_FAILURES:])
        passwords = self.passwords
        refused = login.outcome == "refused"
        first = self.message is None or login.lone
        if refused or (login.lone and login.password in passwords):
            others = {key: at for key, at in passwords.items() if key != login.password}
            passwords = dict([*others.items(), (login.password, login.ended)][-_MOST_PASSWORDS:])
        return Logins(
            message=login.message[:_LONGEST_MESSAGE] if refused else self.message,
            tried_at=login.ended if first else self.tried_at,
            tried=login.password if first else self.tried,
            tries=min(self.tries + (refused and login.lone), _MOST_TRIES),
            failures=failures,
            passwords=passwords,
        )

    def _accepted(self, login: Login) -> "Logins":
        """Drop what the dialer counts no more; the success of a lone try lifts the refusal."""
        failures = tuple(at for at in self.failures if at >= login.sent)
        return Logins(failures=failures) if login.lone else replace(self, failures=failures)

    def in_doubt(self, many: int, now: float, *, lone: bool) -> "Logins":
        """Return what is known after so many logins of a worker that is gone: each may have failed.

        `lone` is whether it may have made the lone try.
        """
        failures = tuple(sorted((*self.failures, *[now] * min(many, MOST_FAILURES)))[-MOST_FAILURES:])
        return replace(self, failures=failures, tried_at=now if lone else self.tried_at)

    def shifted(self, by: float) -> "Logins":
        """Return the same in the time of another clock, which shows `by` seconds more."""
        return replace(
            self,
            tried_at=self.tried_at + by,
            failures=tuple(at + by for at in self.failures),
            passwords={key: at + by for key, at in self.passwords.items()},
        )

    def no_later_than(self, now: float) -> "Logins":
        """Return the same with no time in the future: another host's clock may be ahead."""
        return replace(
            self,
            tried_at=min(self.tried_at, now),
            failures=tuple(min(at, now) for at in self.failures),
            passwords={key: min(at, now) for key, at in self.passwords.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "message": self.message,
            "tried_at": self.tried_at,
            "tried": self.tried,
            "tries": self.tries,
            "failures": list(self.failures),
            "passwords": self.passwords,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Logins":
        """Read what `to_dict` returned. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        message = found["message"]
        return cls(
            message=None if message is None else str(message)[:_LONGEST_MESSAGE],
            tried_at=float(found["tried_at"]),
            tried=str(found["tried"]),
            tries=min(int(found["tries"]), _MOST_TRIES),
            failures=tuple(sorted(map(float, found["failures"]))[-MOST_FAILURES:]),
            passwords={str(key): float(at) for key, at in [*found["passwords"].items()][-_MOST_PASSWORDS:]},
        )
