"""Reading what the dialer tells of itself: the answer of `version`, which needs no login."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from worker.core.errors import FailureKind
from worker.vicidial.error_answers import explain

_VERSION = re.compile(r"VERSION: ([\w.-]{1,40})\|", re.ASCII)
_BUILD = re.compile(r"\|BUILD: ([\w.-]{1,40})\|", re.ASCII)
_EPOCH = re.compile(r"EPOCH: ([0-9]{9,11})\|")
_DATE = re.compile(r"DATE: ([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})\|EPOCH: ")
_OF_AGENT_API = re.compile(
    r"VERSION: [^|\n]*\|BUILD: [^|\n]*\|DATE: [^|\n]*\|EPOCH: [0-9]+\s*$", re.MULTILINE
)
"""It ends with the epoch, where the non-agent API goes on with daylight saving and the time zone."""


@dataclass(frozen=True, slots=True)
class Version:
    """What `version` told; `None` is what it did not tell.

    `epoch` is the dialer's clock in seconds since 1970, `offset` its present
    offset from UTC.
    """

    version: str | None
    build: str | None
    epoch: int | None
    offset: timedelta | None
    outage: str = field(default="", compare=False)
    """What the answer says of an outage, if it is one's: an empty body, a page, a database that is down."""
    agent_api: bool = False
    """Whether the agent API answered (`agc/api.php`), which knows none of our functions."""


def read_version(body: str) -> Version:
    """Read an answer of `version`, whatever it is. Never raises."""
    version, build, epoch = (
        None if found is None else found[1]
        for found in (pattern.search(body) for pattern in (_VERSION, _BUILD, _EPOCH))
    )
    outage = _outage(body) if version is None and epoch is None else ""
    return Version(
        version,
        build,
        None if epoch is None else int(epoch),
        _offset(body),
        agent_api=_OF_AGENT_API.search(body) is not None,
        outage=outage,
    )


def _outage(body: str) -> str:
    error = explain(body, "version")
    return str(error) if error.kind is FailureKind.OUTAGE else ""


def _offset(body: str) -> timedelta | None:
    """Give `DATE` (read as UTC) less the `EPOCH` beside it, to the minute: the `TZ` field can be wrong."""
    if (date := _DATE.search(body)) is None or (epoch := _EPOCH.match(body, date.end(1) + 1)) is None:
        return None
    try:
        local = datetime.fromisoformat(date[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    offset = timedelta(minutes=round((local.timestamp() - int(epoch[1])) / 60))
    return offset if abs(offset) < timedelta(days=1) else None
