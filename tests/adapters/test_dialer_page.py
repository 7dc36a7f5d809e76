"""What the stand-in dialer's page says is true: each request in it is answered as it shows."""

import re
import shlex
from html.parser import HTMLParser
from typing import Any, Final

import aiohttp
import pytest
from yarl import URL

from simulators.dialer import DialerAgent, DialerCall, StandInDialer
from simulators.dialer.examples import Change, Example, answers, changes, control_line, refusals
from simulators.dialer.world import DEFAULT_PASSWORD, DEFAULT_USER, LIVE_IDS, Dialect
from simulators.stand_in import FAULTS

DIALECTS: Final[tuple[Dialect, ...]] = ("real", "tutorial")
VOID: Final = frozenset({"meta", "br"})
BROWSER: Final = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Hasty(StandInDialer):
    """A dialer that never waits."""

    async def pause(self, seconds: float) -> None:
        """Note nothing, and go on."""


class Page(HTMLParser):
    """Reads a page: its elements, its links, its texts by element; every element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def row(self, first: str) -> str:
        """Return the text of the table row that begins with this."""
        (found,) = [text for text in self.texts["tr"] if text.startswith(first)]
        return found


async def run(session: aiohttp.ClientSession, line: str) -> tuple[int, str]:
    """Do what curl does with this line."""
    curl, *arguments = shlex.split(line)
    assert curl == "curl"
    *form, address = arguments
    assert form[:1] in ([], ["-d"])
    headers = {"content-type": "application/x-www-form-urlencoded"} if form else {}
    asking = session.request(
        "POST" if form else "GET",
        URL(address, encoded=True),
        data=form[1].encode() if form else None,
        headers=headers,
    )
    async with asking as response:
        return response.status, (await response.read()).decode(errors="replace")


async def read(session: aiohttp.ClientSession, dialer: StandInDialer, **headers: str) -> str:
    async with session.get(dialer.base_url, headers=headers) as response:
        assert response.status == 200
        return await response.text()


def fits(says: str, text: str) -> bool:
    parts = [re.escape(part) for part in says.split("…")]
    return re.fullmatch(".*".join(parts) + "\n?", text, re.DOTALL) is not None


def named(each: Example | Change) -> str:
    return each.title.split(",")[0].split(":")[0]


EXAMPLES: Final = [
    pytest.param(dialect, example, id=f"{dialect}-{example.method}-{named(example)}")
    for dialect in DIALECTS
    for example in (*answers(dialect, "|"), *refusals(dialect))
]
CHANGES: Final = [
    pytest.param(dialect, change, id=f"{dialect}-{named(change)}")
    for dialect in DIALECTS
    for change in changes(dialect, "|")
]


@pytest.mark.parametrize(("dialect", "example"), EXAMPLES)
async def test_each_example_is_on_the_page_and_gives_what_it_says(
    dialect: Dialect, example: Example, session: aiohttp.ClientSession
) -> None:
    async with StandInDialer(dialect=dialect) as dialer:
        page = Page(await read(session, dialer, **BROWSER))
        line = example.curl(dialer.url)
        assert page.texts["pre"].count(line) == 1
        assert f"  {line}\n" in await read(session, dialer)
        status, text = await run(session, line)
        assert (status, fits(example.says, text)) == (example.status, True), text
        if example.method == "GET":
            assert example.address(dialer.url) in page.links


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_link_on_the_page_can_be_followed(
    dialect: Dialect, session: aiohttp.ClientSession
) -> None:
    async with StandInDialer(dialect=dialect) as dialer:
        page = Page(await read(session, dialer, **BROWSER))
        assert len(page.links) > 5
        for link in page.links:
            async with session.get(URL(link, encoded=True)) as response:
                assert response.status in {200, 500}, link
        assert {URL(link).authority for link in page.links} == {f"127.0.0.1:{dialer.port}"}


@pytest.mark.parametrize(("dialect", "change"), CHANGES)
async def test_each_way_to_break_it_is_on_the_page_and_works_and_is_undone(
    dialect: Dialect, change: Change, session: aiohttp.ClientSession
) -> None:
    async with Hasty(dialect=dialect, clock=lambda: 0.0) as dialer:
        page = Page(await read(session, dialer, **BROWSER))
        asked = change.then.curl(dialer.url)
        before = await run(session, asked)
        line = change.curl(dialer.base_url)
        assert line in page.texts["pre"]
        assert f"  {line}\n" in await read(session, dialer)
        status, said = await run(session, line)
        assert (status, said[:11]) == (200, '{"ok": true')
        status, text = await run(session, asked)
        assert (status, fits(change.then.says, text)) == (change.then.status, True), text
        back = change.back or {"reset": True}
        assert change.back is None or control_line(dialer.base_url, back) in page.texts["pre"]
        assert (await run(session, control_line(dialer.base_url, back)))[0] == 200
        assert await run(session, asked) == before


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_page_needs_nothing_from_elsewhere(
    dialect: Dialect, session: aiohttp.ClientSession
) -> None:
    async with (
        StandInDialer(dialect=dialect) as dialer,
        session.get(dialer.base_url, headers=BROWSER) as response,
    ):
        text = await response.text()
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    page = Page(text)
    assert page.elements.isdisjoint({"script", "link", "img", "iframe", "object", "form", "base"})
    assert page.attributes == {"lang", "charset", "name", "content", "class", "href"}
    assert "url(" not in text
    assert "@import" not in text


async def test_what_others_wrote_is_escaped(session: aiohttp.ClientSession) -> None:
    nasty = "<script>alert('&amp;')</script>\x1b[2J"
    async with StandInDialer() as dialer:
        dialer.agents["1000"] = DialerAgent(user="1000", full_name=nasty)
        dialer.add_call(DialerCall(call_id="V1201405090000054321", phone=nasty))
        async with session.get(f"{dialer.base_url}/{nasty}"):
            pass
        dialer.users["limadm"].groups = frozenset({nasty})
        page = Page(await read(session, dialer, **BROWSER))
        assert "script" not in page.elements
        assert sum(nasty in text for text in page.texts["td"]) == 4
        assert "\x1b" not in await read(session, dialer)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_it_shows_the_state_of_each_call_and_begins_none(
    dialect: Dialect, session: aiohttp.ClientSession
) -> None:
    now = 0.0
    call_id = LIVE_IDS[dialect]["answered"]
    async with StandInDialer(dialect=dialect, clock=lambda: now) as dialer:
        for seconds in (0.0, 1000.0):
            now = seconds
            page = Page(await read(session, dialer, **BROWSER))
            assert page.row(call_id).startswith(f"{call_id}begins when it is asked forSALE1000")
            assert page.row(LIVE_IDS[dialect]["endless"]).startswith(
                f"{LIVE_IDS[dialect]['endless']}INCALLSALE"
            )
        dialer.ring("answered", call_id)
        for after, state in ((0.0, "CALL NOT FOUND"), (3.0, "INCALL"), (12.0, "DISPO"), (20.0, "final")):
            now = 1000.0 + after
            assert (
                Page(await read(session, dialer, **BROWSER)).row(call_id).startswith(f"{call_id}{state}SALE")
            )


async def test_it_shows_what_is_wrong_with_it_at_this_moment(session: aiohttp.ClientSession) -> None:
    async with StandInDialer() as dialer:
        assert "At this moment" not in await read(session, dialer, **BROWSER)
        changed: dict[str, Any] = {
            "fault": "hang",
            "delay": 0.5,
            "service_time": 0.005,
            "users_table_locked": 60,
            "ip_blocked": True,
            "display_errors": True,
            "charset": "latin-1",
            "plant": {"1000": {"body": "x"}},
            "users": {DEFAULT_USER: {"locked": True}, "6666": {"two_factor": True}},
        }
        dialer.control(changed)
        page = Page(await read(session, dialer, **BROWSER))
        (said,) = [text for text in page.texts["p"] if text.startswith("At this moment: ")]
        for word in (
            "fault hang",
            "delay 0.5 s",
            "service_time 0.005 s",
            "users_table_locked for",
            "planted",
        ):
            assert word in said
        for word in ("ip_blocked", "display_errors", "charset latin-1"):
            assert word in said
        assert "NOW: fault hang\n" in await read(session, dialer)
        assert page.row(DEFAULT_USER).endswith("locked: every login is refused")
        assert page.row("66661234").endswith("two-factor: every login is refused")


async def test_it_shows_what_each_api_user_may_do(session: aiohttp.ClientSession) -> None:
    async with StandInDialer() as dialer:
        page = Page(await read(session, dialer, **BROWSER))
        every, none = "yes" * 5, "no" * 5
        assert page.row(DEFAULT_USER) == f"{DEFAULT_USER}{DEFAULT_PASSWORD}{every}"
        assert page.row("api8E") == "api8Eight8yesyesnonono"
        assert page.row("api7") == "api7Seven7yesnonoyesyes"
        assert page.row("level6") == f"level6Level6{none}level 6 can't log in"
        assert page.row("limadm") == f"limadmLimad1{every}sees the groups SALES only"
        assert page.row("noapi") == f"noapiNoApi1{none}"
    async with StandInDialer(dialect="tutorial") as dialer:
        page = Page(await read(session, dialer, **BROWSER))
        assert page.row("api7") == "api7Seven7yesno"


async def test_it_shows_what_it_knows(session: aiohttp.ClientSession) -> None:
    async with StandInDialer() as dialer:
        page = Page(await read(session, dialer, **BROWSER))
        text = await read(session, dialer)
        for known in (*dialer.agents, *dialer.campaigns, *dialer.users):
            assert any(row.startswith(known) for row in page.texts["tr"]), known
            assert f"\n  {known}" in text
        assert page.row("1001Agent").startswith(
            "1001Agent OneSUPPORT1OUTONLY RENEW_24 SUPP-1RENEW_IN SALESLINE"
        )
        assert page.row("SUPP-1") == "SUPP-1Support with dashyesSUPPORTLINE"
        for fault in FAULTS:
            assert fault in "".join(page.texts["p"])
        for each in dialer.recordings:
            assert each.location in text
        for line in ("URL", "USER", "PASSWORD"):
            assert f"export CRM_SYNC_VICIDIAL__{line}=" in text


async def test_it_shows_the_last_requests_without_the_passwords_that_were_sent(
    session: aiohttp.ClientSession,
) -> None:
    async with StandInDialer(keep_requests=False) as dialer:
        for number in range(30):
            query = {"user": "nobody", "pass": "s3cret", "function": "callid_info", "call_id": f"V{number}"}
            async with session.get(dialer.url, params=query):
                pass
        page = Page(await read(session, dialer, **BROWSER))
        rows = [row for row in page.texts["tr"] if "Login incorrect" in row]
        assert len(rows) == 20
        assert rows[0].endswith("GET callid_infoV29nobodyERROR: Login incorrect, please try again")
        assert "s3cret" not in await read(session, dialer)
