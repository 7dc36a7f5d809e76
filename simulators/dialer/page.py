"""The stand-in dialer's own page: what it is, how to ask it, what it knows, how to break it.

One page in HTML, which needs nothing else and no script, and the same in plain text for a terminal.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from simulators.dialer.answers import agent_campaign_ids, in_groups_of, is_call_id, may
from simulators.dialer.examples import Change, Example, answers, changes, control_line, refusals
from simulators.dialer.logins import LOWEST_LEVEL, PERMISSIONS, is_locked, refusal
from simulators.dialer.requests import DialerRequest
from simulators.dialer.world import (
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    LIFE_CYCLES,
    ApiUser,
    Dialect,
    DialerCall,
    LocalTime,
    World,
)
from simulators.stand_in import FAULTS

Rows = Sequence[Sequence[str]]

_STATES: Final = {
    "not_found": "CALL NOT FOUND",
    "log_not_found": "CALL LOG NOT FOUND",
    "sql_error": "breaks the server",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The dialer at one moment. `troubles` are the ways in which it is broken or slow."""

    base_url: str
    url: str
    dialect: Dialect
    separator: str
    world: World
    now: float
    local: LocalTime
    recent: Sequence[DialerRequest]
    troubles: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Some rows under a title, with a sentence on them."""

    title: str
    remark: str
    columns: Sequence[str]
    rows: Rows


def tables(view: View) -> tuple[Table, ...]:
    """Return everything that the dialer knows and was asked last, at this moment."""
    world = view.world
    askable = str.isdigit if view.dialect == "tutorial" else is_call_id
    calls = [call for call in world.calls.values() if askable(call.call_id)]
    names = ("callid_info", "agent_campaigns") if view.dialect == "tutorial" else tuple(PERMISSIONS)
    call_columns = ("call id", "state now", "status", "agent", "phone")
    found = [
        Table(
            "Calls that live",
            "Each goes its way from the first question about it, or from the moment it is rung on.",
            (*call_columns, "its way, in seconds"),
            [(*_call_row(call, view.now), _way(call)) for call in calls if not _stays(call)],
        ),
        Table(
            "Calls that stay as they are",
            "",
            call_columns,
            [_call_row(call, view.now) for call in calls if _stays(call)],
        ),
        Table(
            "Agents",
            "",
            ("user", "name", "group", "level", "campaigns", "in-groups"),
            [_agent_row(world, user) for user in world.agents],
        ),
        Table(
            "Campaigns",
            "",
            ("campaign id", "name", "active", "in-groups"),
            [
                (each.campaign_id, each.name, "yes" if each.active else "no", " ".join(each.in_groups))
                for each in world.campaigns.values()
            ],
        ),
        Table(
            "API users",
            "The passwords open nothing but this stand-in.",
            ("user", "password", *names, "remarks"),
            [_user_row(view, name, user, names) for name, user in world.users.items()],
        ),
    ]
    if view.dialect == "real":
        found.insert(3, _recordings(view))
    return (*found, _last_requests(view))


def _stays(call: DialerCall) -> bool:
    """Return whether a call is in one state from its beginning on."""
    return not call.schedule or [after for after, _ in call.schedule] == [0]


def _call_row(call: DialerCall, now: float) -> tuple[str, ...]:
    if call.schedule and call.begun is None:
        state = call.schedule[0][1] if _stays(call) else "begins when it is asked for"
    else:
        state = call.peek(now)
    return (call.call_id, _STATES.get(state, state), call.status, call.user, call.phone)


def _way(call: DialerCall) -> str:
    steps = ", ".join(f"{after:g}: {_STATES.get(state, state)}" for after, state in call.schedule)
    if call.transferred_from is None:
        return steps
    return f"{call.transferred_after:g} s after the beginning of {call.transferred_from.call_id}: {steps}"


def _agent_row(world: World, user: str) -> tuple[str, ...]:
    agent = world.agents[user]
    ids = agent_campaign_ids(world, agent)
    lists = (" ".join(ids), " ".join(in_groups_of(world, ids)))
    return (user, agent.full_name, agent.user_group, str(agent.user_level), *lists)


def _user_row(view: View, name: str, user: ApiUser, functions: Iterable[str]) -> tuple[str, ...]:
    real = view.dialect == "real"
    may_use = (not refusal(user, name, function) if real else may(user, function) for function in functions)
    lets_in = user.level >= LOWEST_LEVEL
    remarks = {
        "locked: every login is refused": real and is_locked(user, view.now),
        f"level {user.level} can't log in": not lets_in,
        "two-factor: every login is refused": user.two_factor,
        f"sees the groups {' '.join(sorted(user.groups or ()))} only": real and user.groups is not None,
    }
    said = "; ".join(remark for remark, holds in remarks.items() if holds)
    return (name, user.password, *("yes" if lets_in and each else "no" for each in may_use), said)


def _recordings(view: View) -> Table:
    rows = [
        (
            each.recording_id,
            each.start_time,
            each.user,
            each.lead_id,
            f"{each.seconds}",
            each.uniqueid,
            each.location,
        )
        for recording in view.world.recordings
        if (each := recording.as_of(view.now, view.local)) is not None
    ]
    columns = ("recording id", "start", "agent", "lead id", "seconds", "uniqueid", "location")
    return Table("Recordings", "By uniqueid, by lead_id, or by agent_user and date.", columns, rows)


def _last_requests(view: View) -> Table:
    rows = [
        (
            view.local(each.at),
            f"{each.method} {each.function}",
            each.subject,
            each.user,
            each.outcome or "being answered",
        )
        for each in reversed(view.recent)
    ]
    return Table(
        "Last requests", "The newest first.", ("when", "function", "about", "API user", "outcome"), rows
    )


def settings_lines(url: str) -> tuple[str, ...]:
    """Return the lines that point a worker at the dialer."""
    return (
        f"export CRM_SYNC_VICIDIAL__URL='{url}'",
        f"export CRM_SYNC_VICIDIAL__USER='{DEFAULT_USER}'",
        f"export CRM_SYNC_VICIDIAL__PASSWORD='{DEFAULT_PASSWORD}'",
    )


# --- in words -------------------------------------------------------------------------------------


def _introduction(view: View) -> str:
    if view.dialect == "tutorial":
        return (
            "A stand-in for VICIdial's non-agent API as the tutorials tell it: no header, "
            f"values separated by {view.separator!r}. It listens on this machine only."
        )
    return (
        "A stand-in for VICIdial's non-agent API. It answers word for word as recorded from a real one "
        "(VICIdial 2.14, build 250720-1841), and listens on this machine only."
    )


def _ways_to_break(view: View) -> tuple[str, ...]:
    return (
        f"Faults: {', '.join(FAULTS)}.",
        f"Lives of a call, for ring: {'; '.join(f'{name} ({it.what})' for name, it in LIFE_CYCLES.items())}.",
        f"GET {view.base_url}/control returns in JSON what was asked.",
    )


def text_page(view: View) -> str:
    """Write the page for a terminal."""
    return "\n".join(_text(view)) + "\n"


def _text(view: View) -> Iterator[str]:
    yield from (_introduction(view), f"The same with links, for a browser: {view.base_url}/", "")
    yield from (f"NOW: {trouble}" for trouble in view.troubles)
    yield from ("Address", f"  {view.url}", "", "Point a worker at it")
    yield from (f"  {line}" for line in settings_lines(view.url))
    for title, examples in _asking(view):
        yield from ("", title)
        for example in examples:
            yield from (f"  # {example.title}", f"  {example.curl(view.url)}")
    yield from ("", "Break it, or make it know more")
    for change in changes(view.dialect, view.separator):
        yield from (f"  # {change.title}", f"  {change.curl(view.base_url)}")
        if change.back is not None:
            yield f"  {control_line(view.base_url, change.back)}"
    yield from (f"  {line}" for line in _ways_to_break(view))
    for table in tables(view):
        yield from ("", table.title, *_text_table(table))


def _text_table(table: Table) -> Iterator[str]:
    rows = [table.columns, *([_printable(each) for each in row] for row in table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _printable(text: str) -> str:
    """Show text that others wrote: with escapes for what would steer the terminal or break the line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _asking(view: View) -> tuple[tuple[str, tuple[Example, ...]], ...]:
    asked = answers(view.dialect, view.separator)
    return (("Ask", asked), ("What it refuses", refusals(view.dialect)))


# --- in HTML --------------------------------------------------------------------------------------

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h2 { border-bottom: 1px solid #8888; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
pre { background: #8882; margin: .25rem 0; overflow-x: auto; padding: .5rem .75rem; user-select: all; }
pre.says { background: none; border-left: 3px solid #8888; user-select: text; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; }
td, th { border-bottom: 1px solid #8884; padding: .25rem .75rem .25rem 0; }
td, th { text-align: left; vertical-align: top; }
.trouble { border: 2px solid #c60; padding: .5rem .75rem; }
"""


def html_page(view: View) -> str:
    """Write the page for a browser."""
    return "\n".join(_html(view)) + "\n"


def _html(view: View) -> Iterator[str]:
    yield from ("<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">')
    yield '<meta name="viewport" content="width=device-width">'
    yield from ("<title>Stand-in dialer</title>", f"<style>{_STYLE}</style>", "</head>", "<body>")
    yield from ("<h1>Stand-in dialer</h1>", f"<p>{escape(_introduction(view))}</p>")
    if view.troubles:
        yield f'<p class="trouble">At this moment: {escape("; ".join(view.troubles))}.</p>'
    yield from ("<h2>Address</h2>", _pre([view.url]), "<p>Point a worker at it:</p>")
    yield _pre(settings_lines(view.url))
    for title, examples in _asking(view):
        yield f"<h2>{escape(title)}</h2>"
        for example in examples:
            yield from _html_example(example, view.url)
    yield "<h2>Break it, or make it know more</h2>"
    yield from (f"<p>{escape(line)}</p>" for line in _ways_to_break(view))
    for change in changes(view.dialect, view.separator):
        yield from _html_change(change, view.base_url)
    for table in tables(view):
        yield from _html_table(table)
    yield from ("</body>", "</html>")


def _html_example(example: Example, url: str) -> Iterator[str]:
    title = escape(example.title)
    if example.method == "GET":
        title = f'<a href="{escape(example.address(url))}">{title}</a>'
    yield from (f"<h3>{title}</h3>", _pre([example.curl(url)]))
    said = example.says or "(nothing)"
    if example.status != 200:
        said = f"{said}\nwith the status {example.status}"
    yield f'<pre class="says">{escape(said)}</pre>'


def _html_change(change: Change, base_url: str) -> Iterator[str]:
    yield from (f"<h3>{escape(change.title)}</h3>", _pre([change.curl(base_url)]))
    if change.back is not None:
        yield from ("<p>and back:</p>", _pre([control_line(base_url, change.back)]))


def _html_table(table: Table) -> Iterator[str]:
    yield from (f"<h2>{escape(table.title)}</h2>", f"<p>{escape(table.remark)}</p>" if table.remark else "")
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
    yield "</tbody></table></div>"


def _pre(lines: Iterable[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
