"""What is shown of an answer that can't be read: something useful, and nothing that must stay secret."""

import base64
import time
from html import escape
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.recordings import load
from worker.core.scrub import Scrubber
from worker.vicidial.answers import excerpt

SECRET = "Pl4nt&d+Secret/ü'"
SCRUB = Scrubber([SECRET], shortest=1)
PROPERTY = settings(max_examples=300)


def numeric(text: str, form: str) -> str:
    return "".join(form.format(ord(letter)) for letter in text)


SPELLINGS = {
    "clear": SECRET,
    "in a URL": quote(SECRET, safe=""),
    "in a form": quote_plus(SECRET, safe=""),
    "in HTML": escape(SECRET),
    "in decimal entities": numeric(SECRET, "&#{};"),
    "in hexadecimal entities": numeric(SECRET, "&#x{:x};"),
    "in base64": base64.b64encode(SECRET.encode()).decode().rstrip("="),
    "in base64 behind a name": base64.b64encode(f"6666:{SECRET}".encode()).decode().rstrip("="),
}


def traces(spelled: str) -> set[str]:
    """Return all parts of a spelled secret that are long enough to give it away."""
    return {spelled[at : at + 8] for at in range(len(spelled) - 7)}


@pytest.mark.parametrize("how", SPELLINGS)
def test_no_secret_is_shown_however_it_is_spelled_and_wherever_it_is_cut(how: str) -> None:
    spelled = SPELLINGS[how]
    for before in range(180, 205):
        body = "x " * (before // 2) + "y" * (before % 2) + f" user={spelled}&more"
        shown = excerpt(body, SCRUB)
        assert not any(trace in shown for trace in traces(spelled))


@pytest.mark.parametrize("how", SPELLINGS)
def test_no_secret_is_put_together_by_what_is_taken_out(how: str) -> None:
    spelled = SPELLINGS[how]
    for at in range(1, len(spelled)):
        for inside in ("<b>", "\x00", "\u200b", "</td><td>"):
            shown = excerpt(f"row {spelled[:at]}{inside}{spelled[at:]} end", SCRUB)
            assert spelled not in shown
            assert SECRET not in shown


def test_a_short_user_is_taken_out_where_it_stands_alone() -> None:
    assert excerpt("row 42 of 420", Scrubber(["42"], shortest=1)) == "row *** of 420"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("José  said\r\n\t hello\n\n", "José said hello"),
        ("<p>Bad <b>Gateway</b></p>\n<hr>nginx", "Bad Gateway nginx"),
        ("a\u202eb\u200bc", "abc"),
        ("a\x00b", "(3 characters, not all of them text)"),
        ("a\x1b[31mb\n" * 1000, "(8000 characters, not all of them text)"),
        ("a\ufffdb", "(3 characters, not all of them text)"),
        ("a\x81b", "(3 characters, not all of them text)"),
        ("V12|120|3125551212|SALE", "V12|120|********12|SALE"),
        ("call +1 3125551212, ext 123456", "call +1 ********12, ext 123456"),
        ("1234567", "*****67"),
        ("R&amp;D &#51;&#49;&#50;&#53;&#53;&#53;&#49;", "R&D *****51"),
        ("", "(nothing readable)"),
        (" \r\n\u200b<br />", "(nothing readable)"),
    ],
)
def test_it_is_one_readable_line(body: str, shown: str) -> None:
    assert excerpt(body, SCRUB) == shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("ERROR: new_one STRANGE THING: |6666|x|\n", "ERROR: new_one STRANGE THING"),
        ("ERROR: STRANGE THING|6666|x", "ERROR: STRANGE THING"),
        ("ERROR: STRANGE THING - 6666|x", "ERROR: STRANGE THING"),
        (
            "ERROR: Login incorrect, please try again: |6666|x|BAD|",
            "ERROR: Login incorrect, please try again",
        ),
        ("Login incorrect, please try again: |6666|x|BAD|", "Login incorrect, please try again"),
        ("|6666|x| ERROR: STRANGE: x", "ERROR: STRANGE"),
        ("<p>ERROR: STRANGE</p>: x\nmore", "ERROR: STRANGE more"),
        (
            "<b>Fatal error</b>:  Uncaught sql_exception: near 'x'",
            "Fatal error: Uncaught sql_exception",
        ),
        ("MySQL connect ERROR:  Access denied: x", "MySQL connect ERROR: Access denied"),
        ("ERROR: STRANGE&#58; x&#10;y", "ERROR: STRANGE"),
        ("ER\u200bR<b>OR</b>: STRANGE: x", "ERROR: STRANGE"),
        ("a row\nERROR: ONE: x\nERROR: TWO: x", "a row ERROR: ONE ERROR: TWO"),
    ],
)
def test_of_an_error_only_its_words_are_shown(body: str, shown: str) -> None:
    assert excerpt(body, SCRUB) == shown


def test_it_is_cut_off() -> None:
    assert excerpt("ab " * 100, SCRUB, 10) == "ab ab ab a…"
    assert excerpt("ab " * 100, SCRUB, 299) == ("ab " * 100).strip()
    assert len(excerpt("x" * 500, SCRUB)) == 201


def test_what_was_sent_is_not_shown_of_any_recorded_error() -> None:
    wrong = []
    for exchange in load():
        shown = excerpt(exchange.body, Scrubber([]), len(exchange.body) + 1)
        password = exchange.query.get("pass", "")
        if "ERROR" in exchange.body and ("|" in shown or (len(password) > 3 and password in shown)):
            wrong.append(f"{exchange.group}/{exchange.name}: {shown}")
    assert not wrong, "\n".join(wrong)


def test_the_time_grows_with_the_size_and_no_faster() -> None:
    started = time.process_time()
    for piece in ("<", "<b", "<b>", "ERROR: |", "1", "12 ", "\n", "\x00", "error", "&#80;"):
        excerpt(piece * (2**20 // len(piece)), SCRUB)
    assert time.process_time() - started < 20


@PROPERTY
@given(
    st.lists(
        st.sampled_from(["<b>", "ERROR: ", ":", "|", "\n", " ", "\x00", "12345678", *SPELLINGS.values()])
        | st.text(max_size=5),
        max_size=30,
    ).map("".join)
)
def test_whatever_comes_the_excerpt_is_short_printable_and_without_the_secret(body: str) -> None:
    shown = excerpt(body, SCRUB)
    assert 0 < len(shown) <= 201
    assert shown.isprintable()
    assert SECRET not in shown
    assert not any(part.isdigit() and len(part) > 6 for part in shown.replace("*", " ").split())
