"""What is set means what its writer meant, or it is refused: never accepted as something else."""

import base64
import codecs
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.settings.loading import DIALER, REQUIRED, SECRET, Loader, leaf, problems, variable
from worker.settings.types import LARGEST_SECRET, checked_broker_url, checked_url, parse_duration

CRM = "https://crm.example/hooks/calls"
BROKER = "amqp://user:password@broker.example/"


def refusal(load_these: Loader, path: str, value: str) -> str:
    """Load one wrong value, and return what is said of it, which names the setting and no secret."""
    line, *more = problems(load_these, {**REQUIRED, variable(path): value})
    start, _, said = line.partition(": ")
    assert start == f"{path} ({variable(path)})"
    assert all(each.startswith(start) for each in more)
    assert SECRET not in line
    return said


# --- addresses ------------------------------------------------------------------------------------

ADDRESSES = {"sink.url": CRM, "vicidial.url": DIALER, "broker.url": BROKER}


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("around", [" ", "\n", "\r\n", "\t", "\ufeff", " \n "])
def test_blanks_around_an_address_are_no_part_of_it(loaded: Loader, path: str, around: str) -> None:
    for value in (ADDRESSES[path] + around, around + ADDRESSES[path]):
        assert leaf(loaded({**REQUIRED, variable(path): value}), path) == ADDRESSES[path]


WRONG = {
    "a blank within": ("/a b", "holds a blank or a line break"),
    "a tab within": ("/a\tb", "holds a blank or a line break"),
    "a line break within": ("/a\nb", "holds a blank or a line break"),
    "a return within": ("/a\rb", "holds a blank or a line break"),
    "a hard blank": ("/a\u00a0b", "holds a blank or a line break"),
    "a blank of no width": ("/a\u200bb", "holds a blank or a line break"),
    "a letter": ("/für", "holds a letter that is not ASCII"),
    "a quote": ('/a"b', "holds a sign that no address has"),
    "a template": ("/{token}", "holds a sign that no address has"),
    "a back slash": ("/a\\b", "holds a sign that no address has"),
    "a bare percent sign": ("/100%", "holds a % without two hexadecimal digits"),
    "a cut escape": ("/a%2", "holds a % without two hexadecimal digits"),
    "a fragment": ("/a#b", "holds a #"),
    "an empty query": ("/a?", "ends with a ? and has no query"),
}


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("wrong", WRONG)
def test_an_address_that_would_become_another_is_refused(loaded: Loader, path: str, wrong: str) -> None:
    end, said = WRONG[wrong]
    assert refusal(loaded, path, ADDRESSES[path].rstrip("/") + end).startswith(said)


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a b",
        "crm.example:http",
        "crm.example:0",
        "crm.example:70000",
        "a..b",
        ".a",
        "a,b",
        "a:1,b",
    ],
)
def test_what_has_no_host_or_port_is_no_address(loaded: Loader, path: str, host: str) -> None:
    scheme = ADDRESSES[path].partition("://")[0]
    said = refusal(loaded, path, f"{scheme}://{host}/x")
    assert said.startswith(("is not an address such as", "holds a blank"))


@pytest.mark.parametrize(
    "host", ["crm", "crm_1.example", "CRM.example.", "127.0.0.1", "[::1]", "xn--bcher-kva.example"]
)
def test_hosts_that_are_some(host: str) -> None:
    for url in (f"http://{host}/x", f"http://u:p@{host}:8080/x"):
        assert checked_url(url, ("http",), "") == url


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("broker.url", f"amqp://user:1/{SECRET}@broker.example/"),
        ("broker.url", f"amqp://user:1?{SECRET}@broker.example/"),
        ("broker.url", "amqp://broker.example/calls@west"),
        ("sink.url", f"https://user:1/{SECRET}@crm.example/"),
        ("vicidial.url", f"https://user:1?{SECRET}@dialer.example/x.php"),
    ],
)
def test_a_password_that_is_not_escaped_is_no_path(loaded: Loader, path: str, address: str) -> None:
    assert refusal(loaded, path, address).startswith(
        "holds an @ behind its host; in a password, write / as %2F"
    )


def test_an_at_sign_may_stand_in_the_path_of_a_webhook() -> None:
    for url in ("https://crm.example/webhook/1-2@3-4/IncomingWebhook", "http://127.0.0.1:80/@me?to=a@b"):
        assert checked_url(url, ("http", "https"), "") == url


printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), max_size=20)


@given(printable, printable)
def test_an_address_is_taken_as_it_is_or_refused(path: str, query: str) -> None:
    url = f"https://crm.example/{path}?{query}x"
    try:
        assert checked_url(url, ("https",), "") == url
    except ValueError:
        return
    parts = urlsplit(url)
    assert (parts.hostname, f"{parts.path}?{parts.query}") == (
        "crm.example",
        url.removeprefix("https://crm.example"),
    )


# --- the broker's address -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("heartbeat=30s", "heartbeat must be a whole number of seconds from 1 to 600"),
        ("heartbeat=0", "heartbeat must be"),
        ("heartbeat=", "heartbeat must be"),
        ("heartbeat=-5", "heartbeat must be"),
        ("heartbeat=1.5", "heartbeat must be"),
        ("heartbeat=70000", "heartbeat must be"),
        ("heartbeat=%D9%A1%D9%A2", "heartbeat must be"),
        ("heartbeat=10&heartbeat=20", "heartbeat must be a whole number of seconds from 1 to 600, once"),
        ("timeout=5s", "timeout must be"),
        ("Heartbeat=10", "of which only heartbeat, timeout, name, auth, cafile"),
        ("heart_beat=10", "of which only heartbeat"),
        ("connection_attempts=3", "of which only heartbeat"),
        ("heartbeat=10&ssl=true", "of which only heartbeat"),
        ("x", "of which only heartbeat"),
        ("auth=scram", "auth must be plain or external"),
        ("cafile=/etc/hosts", "has cafile in its query, which is for amqps:// only"),
        ("no_verify_ssl=0", "has no_verify_ssl in its query, which is for amqps:// only"),
    ],
)
def test_a_query_that_the_broker_would_not_understand_is_refused(
    loaded: Loader, query: str, said: str
) -> None:
    assert said in refusal(loaded, "broker.url", f"{BROKER}?{query}")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("no_verify_ssl=false", "no_verify_ssl must be 0 or 1"),
        ("cafile=/nowhere/ca.pem", "cafile must be the path of a file that exists"),
        ("capath=/nowhere", "capath must be the path of a directory that exists"),
    ],
)
def test_nor_one_of_an_encrypted_connection(loaded: Loader, query: str, said: str) -> None:
    assert said in refusal(loaded, "broker.url", f"amqps://broker.example/?{query}")


@pytest.mark.parametrize(
    "query", ["heartbeat=10", "heartbeat=10&timeout=5", "name=west", "auth=PLAIN", f"name={'x' * 200}"]
)
def test_a_query_that_it_understands_is_taken(query: str) -> None:
    url = f"{BROKER}?{query}"
    assert checked_broker_url(url) == url
    secure = f"amqps://broker.example/?{query}&no_verify_ssl=1&cafile=/etc/hosts&capath=/etc"
    assert checked_broker_url(secure) == secure


@pytest.mark.parametrize("login", ["user@", ":password@", "user:@", "@"])
def test_half_a_login_is_refused_for_the_library_would_add_guest(loaded: Loader, login: str) -> None:
    said = refusal(loaded, "broker.url", f"amqp://{login}broker.example/")
    assert said.startswith("names a user without a password, or a password without a user")


# --- secrets and their files ----------------------------------------------------------------------

BOM = codecs.BOM_UTF8


@pytest.mark.parametrize(
    "data", [b"s3cret", BOM + b"s3cret\r\n", BOM + b"s3cret", b"s3cret\n\n", b"s3cret\r\n"]
)
def test_a_mark_and_line_breaks_around_a_secret_are_no_part_of_it(
    loaded: Loader, tmp_path: Path, data: bytes
) -> None:
    file = tmp_path / "password"
    file.write_bytes(data)
    environment = {name: value for name, value in REQUIRED.items() if "PASSWORD" not in name}
    settings = loaded(environment, VICIDIAL__PASSWORD_FILE=str(file)).vicidial
    assert settings.password == settings.reread().password == SecretStr("s3cret")


@pytest.mark.parametrize("value", ["s3cret\n", "s3cret\r\n", "\ufeffs3cret"])
def test_nor_of_one_in_a_variable(loaded: Loader, value: str) -> None:
    assert leaf(loaded({**REQUIRED, "CRM_SYNC_VICIDIAL__PASSWORD": value}), "vicidial.password") == "s3cret"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("s3cret".encode("utf-16"), "not UTF-8 text"),
        ("s3cret".encode("utf-16-le"), "holds a line break or an invisible character"),
        ("s3cret".encode("utf-32"), "not UTF-8 text"),
        ("s3crét".encode("latin-1"), "not UTF-8 text"),
        (b"user\ns3cret\n", "holds a line break or an invisible character"),
        ("s3\u200bcret".encode(), "holds a line break or an invisible character"),
        (BOM, "is empty"),
        (b"\r\n", "is empty"),
        (b"x" * (LARGEST_SECRET + 1), "is larger than 64 KiB, so it is no secret"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(
    loaded: Loader, tmp_path: Path, data: bytes, said: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(data)
    environment = {name: value for name, value in REQUIRED.items() if "PASSWORD" not in name}
    (line,) = problems(loaded, environment, VICIDIAL__PASSWORD_FILE=str(file))
    assert line.startswith("vicidial.password (CRM_SYNC_VICIDIAL__PASSWORD_FILE): ")
    assert said in line
    assert "s3" not in line


# --- what YAML would make of it -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["6666", "0100", "1_000", "0x1F", "0o17", "yes", "NO", "1e3", "2026-11-20", "true"]
)
def test_text_in_yaml_stays_what_is_written_there(loaded: Loader, text: str) -> None:
    given = {name: value for name, value in REQUIRED.items() if "USER" not in name and "PASSWORD" not in name}
    settings = loaded(
        given, tree=f"vicidial:\n  user: {text}\n  password: {text}\n  not_final: [{text}, DISPO]\n"
    )
    assert settings.vicidial.user == text
    assert leaf(settings, "vicidial.password") == text
    assert settings.vicidial.not_final == {text.upper(), "DISPO"}


@pytest.mark.parametrize("text", ["12:30", "1.5", ".inf", "{a: b}", "[a]"])
def test_what_is_no_name_of_a_user_is_refused(loaded: Loader, text: str) -> None:
    given = {name: value for name, value in REQUIRED.items() if "USER" not in name}
    (line,) = problems(loaded, given, tree=f"vicidial:\n  user: {text}\n")
    assert line.startswith("vicidial.user (")


@pytest.mark.parametrize(("text", "number"), [("012", 12), ("64", 64), ("1_000", 1000)])
def test_a_number_in_yaml_is_decimal(loaded: Loader, text: str, number: int) -> None:
    assert loaded(REQUIRED, tree=f"max_in_flight: {text}").max_in_flight == number
    assert loaded(REQUIRED, tree=f"drain: 0{number}").drain == timedelta(seconds=number)


@pytest.mark.parametrize("text", ["0x10", "1:30", "0b11", "1e3", "true", ".nan", "1,000", "6 4"])
def test_a_number_of_another_notation_is_refused(loaded: Loader, text: str) -> None:
    said = problems(loaded, REQUIRED, tree=f"max_in_flight: {text}\ndrain: {text}\n")
    assert [line.partition(" (")[0] for line in said] == ["max_in_flight", "drain"]


@pytest.mark.parametrize("text", ["", "~", "null"])
def test_nothing_in_yaml_is_not_given(loaded: Loader, text: str) -> None:
    settings = loaded(REQUIRED, tree=f"drain: {text}\nvicidial: {text}\nsink:\n  exchange: {text}\n")
    assert settings.drain == timedelta(seconds=20)


@pytest.mark.parametrize(
    ("tree", "name", "place"),
    [
        ("drain: 5s\nmax_in_flight: 1\ndrain: 10s\n", "drain", "line 3, column 1"),
        ("sink: {timeout: 5s}\nlog: {}\nsink: {kind: queue}\n", "sink", "line 3, column 1"),
        ("sink:\n  timeout: 5s\n  timeout: 5s\n", "timeout", "line 3, column 3"),
    ],
)
def test_a_name_that_stands_there_twice_is_refused(
    loaded: Loader, tmp_path: Path, tree: str, name: str, place: str
) -> None:
    said = f"--config {tmp_path}/crm-sync.yaml: {name} is set twice in {place}"
    assert problems(loaded, REQUIRED, tree=tree) == [said]


def test_a_variable_that_is_set_twice_is_refused(loaded: Loader) -> None:
    (line,) = problems(loaded, {**REQUIRED, "CRM_SYNC_DRAIN": "5s", "crm_sync_drain": "6s"})
    assert line == "crm_sync_drain: is set twice, also as CRM_SYNC_DRAIN"


# --- lists, durations, names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ['["DISPO","INCALL"]', "[DISPO, INCALL]", " ['dispo', INCALL] ", "DISPO,INCALL", "dispo , incall"],
)
def test_a_list_of_statuses_is_understood_in_brackets_too(loaded: Loader, value: str) -> None:
    assert loaded(REQUIRED, VICIDIAL__NOT_FINAL=value).vicidial.not_final == {"DISPO", "INCALL"}


@pytest.mark.parametrize(
    "value",
    [
        '["DISPO","INCALL"',
        '"DISPO","INCALL"',
        "'DISPO'",
        "DISPO;INCALL",
        "DISPO INCALL",
        '{"a": 1}',
        "[[DISPO]]",
        "null",
        "[]]",
    ],
)
def test_what_are_no_statuses_is_refused(loaded: Loader, value: str) -> None:
    assert refusal(loaded, "vicidial.not_final", value)


@pytest.mark.parametrize("value", ['["5s","30s"]', "[5s, 30s]", "5s, 30s", "[5, 30]", "5,30"])
def test_so_is_a_list_of_delays(loaded: Loader, value: str) -> None:
    delays = loaded(REQUIRED, RETRY__DELAYS=value).retry.delays
    assert delays == (timedelta(seconds=5), timedelta(seconds=30))


@pytest.mark.parametrize(
    "value", ["0.1ms,0.5ms,5s", "99ms,5s", "5s,5.0001s", "0.01,5", '"5s"', "5s 30s", "5s;30s"]
)
def test_delays_that_would_be_none_are_refused(loaded: Loader, value: str) -> None:
    assert refusal(loaded, "retry.delays", value)


DURATIONS = [
    *("vicidial.timeout", "vicidial.ready_within", "vicidial.user_details_cache", "sink.timeout"),
    *("circuit_breakers.probe_max", "circuit_breakers.refused_probe", "drain"),
]


@pytest.mark.parametrize("path", DURATIONS)
@pytest.mark.parametrize(
    "value",
    ["0.5ms", "0.0001", "1e3", "nan", "inf", "-5s", "5S", "5 seconds", "5,5s", "\u0665s", "9" * 30, ""],
)
def test_what_is_no_whole_number_of_milliseconds_is_no_duration(
    loaded: Loader, path: str, value: str
) -> None:
    assert "duration" in refusal(loaded, path, value)


@given(st.integers(1, 604_800_000))
def test_a_duration_is_exact(milliseconds: int) -> None:
    expected = timedelta(milliseconds=milliseconds)
    assert parse_duration(f"{milliseconds}ms") == expected
    assert parse_duration(f"{milliseconds // 1000}.{milliseconds % 1000:03}s") == expected
    assert parse_duration(milliseconds / 1000) == expected


@pytest.mark.parametrize("path", ["sink.timeout", "vicidial.timeout"])
def test_no_request_may_outlast_what_the_broker_waits_for(loaded: Loader, path: str) -> None:
    assert leaf(loaded({**REQUIRED, variable(path): "2m"}), path) == timedelta(minutes=2)
    for value in ("121s", "30m", "2h"):
        assert refusal(loaded, path, value).startswith("must be at most 2m")


@pytest.mark.parametrize("path", ["sink.exchange", "broker.events_exchange"])
def test_an_exchange_is_named_barely(loaded: Loader, path: str) -> None:
    for value in (
        "theirs ",
        " theirs",
        '"theirs"',
        "'theirs'",
        '["theirs"]',
        "the\nirs",
        "x" * 256,
        "é" * 128,
    ):
        assert refusal(loaded, path, value).startswith("must be ")
    for value in ("theirs", "theirs.calls:1/x", "call events", "é"):
        assert leaf(loaded({**REQUIRED, variable(path): value}), path) == value


def test_an_empty_address_of_a_webhook_that_nobody_asks_is_none(loaded: Loader) -> None:
    assert "is required" in refusal(loaded, "sink.url", "")
    assert loaded(REQUIRED, SINK__KIND="queue", SINK__URL="").sink.url is None


def test_an_exchange_of_no_name_is_the_default(loaded: Loader) -> None:
    settings = loaded(REQUIRED, SINK__EXCHANGE="", BROKER__EVENTS_EXCHANGE="")
    assert (settings.sink.exchange, settings.broker.events_exchange) == (None, "crm-sync.events")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("broker.namespace", "amq.calls"),
        ("broker.namespace", "amq"),
        ("broker.namespace", " crm-sync"),
        ("broker.namespace", "crm-sync\n"),
        ("vicidial.user", " api"),
        ("vicidial.user", "api user"),
        ("vicidial.user", "api@crm"),
        ("vicidial.user", "\N{FULLWIDTH DIGIT SIX}666"),
        ("vicidial.user", "api\N{SUPERSCRIPT TWO}"),
        ("vicidial.password_file", ""),
        ("sink.url_file", ""),
        ("vicidial.user", '"api"'),
        ("vicidial.source", "crmsync\n"),
        ("vicidial.timezone", "america/new_york"),
        ("vicidial.timezone", "America/New_York "),
        ("vicidial.timezone", "right/America/New_York"),
        ("vicidial.timezone", "posixrules"),
        ("vicidial.timezone", "localtime"),
        ("vicidial.timezone", "EST"),
        ("vicidial.method", "POST "),
        ("sink.kind", "webhook "),
        ("http.host", ""),
        ("http.host", "*"),
        ("http.host", "0.0.0.0 "),
        ("http.host", "0.0.0.0:8080"),
        ("http.host", "http://0.0.0.0"),
        ("http.host", "10.0.0.256"),
        ("http.port", "8080/tcp"),
        ("http.port", "tcp://10.0.0.1:8080"),
        ("log.level", "warn"),
        ("log.mask_phone_numbers", ""),
        ("log.mask_phone_numbers", "nope"),
        ("max_in_flight", "64.5"),
        ("max_in_flight", "inf"),
        ("retry.max_attempts", "0x10"),
    ],
)
def test_a_value_that_would_mean_something_else_is_refused(loaded: Loader, path: str, value: str) -> None:
    assert refusal(loaded, path, value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "localhost", "worker-1.example"])  # noqa: S104 - to be taken
def test_hosts_to_listen_on(loaded: Loader, host: str) -> None:
    assert loaded(REQUIRED, HTTP__HOST=host).http.host == host


def test_a_short_signing_secret_is_refused(loaded: Loader) -> None:
    secret = "whsec_" + base64.b64encode(bytes(23)).decode()
    assert refusal(loaded, "sink.signing_secret", secret).startswith(
        "stands for 23 bytes; it must be 24 to 64"
    )
