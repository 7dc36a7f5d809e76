"""What stands invisibly before the first character of an answer does not change its text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.dialer_client import ROW
from worker.vicidial.answers import text_of

ERROR = "ERROR: callid_info CALL NOT FOUND: 6666|\n"

BEFORE: dict[str, bytes] = {
    "nothing": b"",
    "a byte order mark": b"\xef\xbb\xbf",
    "several of them": b"\xef\xbb\xbf" * 3,
    "one after a blank line": b"\r\n\xef\xbb\xbf",
    "one before blank lines": b"\xef\xbb\xbf\n \n\t\r\n",
    "one of UTF-16": b"\xff\xfe",
    "one of UTF-16, big-endian": b"\xfe\xff",
    "one of UTF-32": b"\xff\xfe\x00\x00",
    "one of UTF-32, big-endian": b"\x00\x00\xfe\xff",
    "one decoded as latin-1": "ï»¿".encode(),
    "one decoded as latin-1 twice": "Ã¯Â»Â¿".encode(),
    "one decoded as cp1251": "п»ї".encode(),
    "one of UTF-16 decoded as latin-1": "ÿþ".encode(),
    "one in HTML": b"&#65279;&#xFEFF;",
    "blank lines": b"\n\r\n \n",
    "blanks": b"   \t",
    "no-break spaces": "\u00a0\u202f\u3000".encode(),
    "a no-break space in HTML": b"&nbsp;&nbsp;",
    "zero-width characters": "\u200b\u200c\u200d\u2060".encode(),
    "directions": "\u200e\u202a\u2066".encode(),
    "NUL": b"\x00\x00\x00",
    "other controls": b"\x01\x02\x7f\x0c",
    "C1 controls": "\x85\x9b".encode(),
    "a replacement character": "\ufffd".encode(),
    "all sorts": "\ufeff\n \u200b\x00ï»¿\ufeff\t".encode(),
}


@pytest.mark.parametrize("before", BEFORE)
def test_what_has_no_meaning_is_dropped(before: str) -> None:
    texts = [ROW, ERROR, "MySQL connect ERROR: 2002", "V|José|\n"]
    assert [text_of(BEFORE[before] + text.encode()) for text in texts] == texts


@pytest.mark.parametrize("before", BEFORE)
def test_it_is_dropped_from_each_line(before: str) -> None:
    warning = b"<br />\n<b>Notice</b>: x in <b>y.php</b> on line <b>1</b><br />\n"
    assert text_of(warning + BEFORE[before] + ERROR.encode()) == warning.decode() + ERROR


WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", WIDE)
def test_wide_encodings_are_known_by_what_they_look_like(encoding: str) -> None:
    texts = [ROW, ERROR, "V|José Müller|SALE\n", "1000|Łukasz 山田|SALES|8|Y\n"]
    for before in ("", "\ufeff", "\ufeff\ufeff", "\n \ufeff"):
        assert [text_of((before + text).encode(encoding)) for text in texts] == texts, before


@pytest.mark.parametrize("encoding", WIDE)
def test_they_are_known_behind_bytes_of_another_file(encoding: str) -> None:
    others = [b"\n", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b" \xef\xbb\xbf"]
    read = {before: text_of(before + ERROR.encode(encoding)).rstrip() for before in others}
    assert read == dict.fromkeys(others, ERROR.rstrip())


def test_a_database_of_another_charset_is_read_as_mysql_means_it() -> None:
    assert text_of("V|José “Pepe” Müller|\n".encode("cp1252")) == "V|José “Pepe” Müller|\n"
    assert text_of(b"V|\x81\x8d\x90|\n") == "V|\x81\x8d\x90|\n"


def test_what_stands_within_a_line_stays() -> None:
    for text in ("V|a\u200db|\u202e c|", "V| x| |\n", "1|ï»¿|2\n", "V|\t|\n"):
        assert text_of(text.encode()) == text


def test_what_ends_a_line_invisibly_is_dropped() -> None:
    assert text_of("1000|SALES1|IN1\u200b\ufeff\nnext\x00\n".encode()) == "1000|SALES1|IN1\nnext\n"
    assert text_of(b"1000|SALES1|\tx |\t\n") == "1000|SALES1|\tx |\t\n"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_text(body: bytes) -> None:
    text = text_of(body)
    assert "\x00" not in text
    assert "\ufeff" not in text


@pytest.mark.parametrize(
    "piece",
    ["\ufeff", "\n", "\u200b ", "x\u200b", "\u200b", "&nbsp;", "&", "ï»¿", "\x00", "\x00\ufeff", " ", "\r\n"],
)
def test_the_time_grows_with_the_size_and_no_faster(piece: str) -> None:
    body = piece.encode() * (2**20 // len(piece.encode()))
    started = time.process_time()
    text_of(body + b"x")
    text_of(b"x" + body + b"x")
    assert time.process_time() - started < 5
