"""A secret is found whatever stands between its letters, and however each of them is written."""

import codecs
import json
from collections.abc import Callable

import pytest

from worker.core.scrub import Scrubber

SECRET = "Pl4nted-Secret/ü9"


def each(form: str) -> Callable[[str], str]:
    return lambda text: "".join(form.format(ord(letter), letter) for letter in text)


def percent(prefix: str) -> Callable[[str], str]:
    return lambda text: "".join(f"{prefix}{byte:02X}" for byte in text.encode())


SPELLINGS: dict[str, Callable[[str], str]] = {
    "percent-encoded": percent("%"),
    "percent-encoded twice": percent("%25"),
    "decimal entities": each("&#{:d};"),
    "decimal entities of five digits": each("&#{:05d};"),
    "hexadecimal entities": each("&#X{:X};"),
    "entities, escaped once more": each("&amp;#{:d};"),
    "JSON escapes": each("\\u{:04x}"),
    "JSON escapes in capital letters": each("\\u{:04X}"),
    "JSON escapes in JSON": lambda text: json.dumps(each("\\u{:04x}")(text))[1:-1],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "bytes in Python": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "UTF-16, read as latin-1": lambda text: text.encode("utf-16-le").decode("latin-1"),
    "UTF-16, big-endian, read as latin-1": lambda text: text.encode("utf-16-be").decode("latin-1"),
    "UTF-32, read as latin-1": lambda text: text.encode("utf-32-le").decode("latin-1"),
    "UTF-8, read as latin-1": lambda text: text.encode().decode("latin-1"),
    "UTF-8, read as cp1252": lambda text: text.encode().decode("cp1252"),
    "latin-1, read as UTF-8": lambda text: text.encode("latin-1").decode("utf-8", "replace"),
    "in ASCII": lambda text: text.encode("ascii", "replace").decode(),
    "NUL between, in JSON": each("{1}\\u0000"),
    "NUL between, in a URL": each("{1}%00"),
    "zero-width spaces between": each("\u200b{1}"),
    "zero-width spaces between, in JSON": each("{1}\\u200b"),
    "byte order marks between": each("{1}\ufeff"),
    "hexadecimal digits": lambda text: text.encode().hex(),
    "hexadecimal digits in capital letters": lambda text: text.encode().hex().upper(),
    "base64": lambda text: codecs.encode(f"6666:{text}".encode(), "base64").decode().strip(),
    "some letters percent-encoded": lambda text: f"%50{text[1:5]}%65%64{text[7:]}",
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_a_secret_is_replaced_whole_however_its_letters_are_written(how: str) -> None:
    spelled = SPELLINGS[how](SECRET)
    for before in ("", " ", "|6666|", "pass=", "pass%3D", "\\", "\x00", "ÿþ", "x%"):
        shown = Scrubber([SECRET])(f"{before}{spelled}|BAD|")
        assert "***" in shown, before
        assert shown.endswith("|BAD|") or before == "pass="  # all of the parameter is replaced
        left = shown.removesuffix("|BAD|").removeprefix(before).replace("***", "")
        # What base64 mixes it with, or stands between letters.
        assert len(left) <= (12 if how == "base64" else 6), before


@pytest.mark.parametrize("how", [how for how in SPELLINGS if "base64" not in how and "digits" not in how])
def test_a_short_secret_is_replaced_where_it_stands_alone_however_it_is_written(how: str) -> None:
    scrub = Scrubber(["1234"])
    if how == "some letters percent-encoded":
        assert scrub("|1%3234|") == "|***|"
    else:
        assert "***" in scrub(f"|{SPELLINGS[how]('1234')}|")


def test_only_where_it_could_be_a_secret_is_text_torn_up() -> None:
    scrub = Scrubber(["1234", SECRET])
    for text in ("V1201234509", "%41%31%32", "a&#49;b", "12\x0034", "\\u0031\\u0032"):
        assert scrub(text).replace("***", "12\x0034") == text


@pytest.mark.parametrize("how", [how for how in SPELLINGS if "base64" not in how])
def test_what_could_hold_a_secret_is_suspected(how: str) -> None:
    assert Scrubber([SECRET]).suspects(f"x {SPELLINGS[how](SECRET)} y")


def test_a_line_without_any_sign_of_a_secret_is_not_suspected() -> None:
    assert not Scrubber([SECRET]).suspects(
        '{"call_id": "V1201405090000012345", "name": "José", "at": "+00:00"}'
    )


@pytest.mark.parametrize("between", [" ", ".", "<b>"[:1], "\n", "' + '", "-_-"])
def test_a_secret_whose_letters_are_drawn_apart_is_held(between: str) -> None:
    scrub = Scrubber([SECRET, "1234"])
    assert scrub.holds(f"say {between.join(SECRET)} now")
    assert not scrub.holds(f"say {between.join(SECRET[:-2])} now")
    assert not scrub.holds("1 2 3 4")
