"""Where settings come from, what they default to, and that every problem is named at once."""

import os
import re
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from tests.settings.loading import DIALER, REQUIRED, SECRET, SIGNING_SECRET, Loader, leaf, problems, variable
from worker.settings import BrokerCommandSettings, Settings, SettingsError, load
from worker.settings.load import variables

SECONDS = timedelta(seconds=1)
MINUTES = timedelta(minutes=1)


# --- defaults and sources -------------------------------------------------------------------------

DEFAULTS = {
    "broker.url": "amqp://guest:guest@127.0.0.1:5672/",
    "broker.namespace": "crm-sync",
    "broker.events_exchange": "crm-sync.events",
    "max_in_flight": 64,
    "drain": 20 * SECONDS,
    "duplicates_window": 0,
    "vicidial.source": "crmsync",
    "vicidial.method": "GET",
    "vicidial.timeout": 10 * SECONDS,
    "vicidial.max_concurrency": 8,
    "vicidial.unshared_concurrency": 2,
    "vicidial.timezone": None,
    "vicidial.ready_within": 15 * MINUTES,
    "vicidial.not_final": {"QUEUE", "INCALL", "DISPO", "DONEM", "XFER", ""},
    "vicidial.not_found": "dead_letter",
    "vicidial.recording_lookup": True,
    "vicidial.campaigns_list": True,
    "vicidial.user_details": True,
    "vicidial.agent_campaigns_cache": 10 * SECONDS,
    "vicidial.campaigns_list_cache": MINUTES,
    "vicidial.user_details_cache": MINUTES,
    "vicidial.ignore_agentdirect": False,
    "sink.kind": "webhook",
    "sink.signing_secret": None,
    "sink.timeout": 15 * SECONDS,
    "sink.exchange": None,
    "sink.crm.preset": None,
    "sink.crm.tables": {},
    "sink.crm.fields": {},
    "retry.delays": (5 * SECONDS, 30 * SECONDS, 2 * MINUTES, 10 * MINUTES, 60 * MINUTES),
    "retry.max_attempts": 12,
    "circuit_breakers.probe_max": 30 * SECONDS,
    "circuit_breakers.refused_probe": 5 * MINUTES,
    "http.host": "0.0.0.0",  # noqa: S104 - as documented
    "http.port": 8080,
    "intake.host": "127.0.0.1",
    "intake.port": 8085,
    "intake.token_files": (),
    "intake.spool": Path("/var/lib/crm-sync/intake"),
    "intake.spool_size": 256,
    "intake.rate": 200,
    "intake.tls_certificate": None,
    "intake.tls_key": None,
    "log.level": "info",
    "log.format": "json",
    "log.mask_phone_numbers": True,
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_what_is_not_set_has_the_documented_default(loaded: Loader, path: str) -> None:
    assert leaf(loaded(REQUIRED), path) == DEFAULTS[path]


def test_every_setting_is_required_or_has_a_documented_default_or_names_a_file() -> None:
    required = {"vicidial.url", "vicidial.user", "vicidial.password", "sink.url"}
    files = {path for path in variables().values() if path.endswith("_file")}
    assert set(variables().values()) == required | files | set(DEFAULTS)


def test_the_events_exchange_follows_the_namespace(loaded: Loader) -> None:
    assert loaded(REQUIRED, BROKER__NAMESPACE="west").broker.events_exchange == "west.events"
    assert loaded(BROKER__EVENTS_EXCHANGE="theirs").broker.events_exchange == "theirs"


@pytest.mark.parametrize(
    ("value", "statuses"),
    [
        ("QUEUE,INCALL", {"QUEUE", "INCALL"}),
        ("QUEUE, dispo ,", {"QUEUE", "DISPO", ""}),
        ("", {""}),
    ],
)
def test_an_empty_part_of_the_statuses_that_are_not_final_is_the_empty_status(
    loaded: Loader, value: str, statuses: set[str]
) -> None:
    assert loaded(REQUIRED, VICIDIAL__NOT_FINAL=value).vicidial.not_final == statuses


def test_zero_turns_a_cache_off_and_nothing_else(loaded: Loader) -> None:
    assert loaded(REQUIRED, VICIDIAL__USER_DETAILS_CACHE="0").vicidial.user_details_cache == 0 * SECONDS
    assert "must be longer than 0" in "".join(problems(loaded, REQUIRED, VICIDIAL__TIMEOUT="0"))


@pytest.mark.parametrize("value", ["-1", "1000001", "many"])
def test_a_window_that_is_too_large_or_no_number_is_a_problem(loaded: Loader, value: str) -> None:
    assert loaded(REQUIRED, DUPLICATES_WINDOW="1000000").duplicates_window == 1_000_000
    (problem,) = problems(loaded, REQUIRED, DUPLICATES_WINDOW=value)
    assert problem.startswith("duplicates_window (CRM_SYNC_DUPLICATES_WINDOW): ")


TREE = {
    "broker": {"url": "amqps://a:b@broker.example/", "namespace": "west"},
    "vicidial": {"url": DIALER, "user": 6666, "password": SECRET, "timezone": "America/New_York"},
    "sink": {"kind": "queue"},
    "retry": {"delays": ["1s", 90], "max_attempts": 3},
    "drain": 1.5,
}


def test_a_yaml_file_alone_is_enough(loaded: Loader) -> None:
    settings = loaded(tree=TREE)
    assert leaf(settings, "broker.url") == "amqps://a:b@broker.example/"
    assert settings.vicidial.user == "6666"
    assert settings.vicidial.timezone == ZoneInfo("America/New_York")
    assert settings.retry.delays == (1 * SECONDS, 90 * SECONDS)
    assert settings.drain == 1.5 * SECONDS


def test_the_environment_wins_over_the_yaml_file_setting_by_setting(loaded: Loader) -> None:
    settings = loaded(tree=TREE, BROKER__NAMESPACE="east", DRAIN="3s", RETRY__DELAYS="2s, 4s")
    assert (settings.broker.namespace, settings.drain) == ("east", 3 * SECONDS)
    assert leaf(settings, "broker.url") == "amqps://a:b@broker.example/"
    assert settings.retry.delays == (2 * SECONDS, 4 * SECONDS)
    assert settings.retry.max_attempts == 3


def test_a_variable_may_be_written_in_small_letters(loaded: Loader) -> None:
    assert loaded({**REQUIRED, "crm_sync_http__port": "0"}).http.port == 0


@pytest.mark.parametrize("text", ["", "# nothing\n", "broker:\nsink: {}\ndrain:\nvicidial:\n  timezone:\n"])
def test_a_name_with_nothing_after_it_counts_as_not_given(loaded: Loader, text: str) -> None:
    assert loaded(REQUIRED, tree=text).drain == 20 * SECONDS


def test_the_settings_can_not_be_changed(loaded: Loader) -> None:
    settings = loaded(REQUIRED)
    for section, name in ((settings, "drain"), (settings.broker, "namespace"), (settings.sink, "kind")):
        with pytest.raises(ValidationError):
            setattr(section, name, "x")


# --- secrets --------------------------------------------------------------------------------------

SECRETS = {
    "broker.url": "amqp://user:secret@broker.example/",
    "vicidial.password": SECRET,
    "sink.url": "https://crm.example/hooks/secret",
    "sink.signing_secret": SIGNING_SECRET,
}


@pytest.mark.parametrize("path", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_may_stand_in_a_file(loaded: Loader, tmp_path: Path, path: str, end: str) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRETS[path] + end, encoding="utf-8", newline="")
    environment = {name: value for name, value in REQUIRED.items() if name != variable(path)}
    assert leaf(loaded({**environment, f"{variable(path)}_FILE": str(file)}), path) == SECRETS[path]


@pytest.mark.parametrize("path", SECRETS)
def test_a_secret_may_stand_in_the_secrets_directory(loaded: Loader, tmp_path: Path, path: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / path.replace(".", "__")).write_text(SECRETS[path])
    (tmp_path / "run" / "..data").mkdir()  # as Kubernetes mounts secrets
    environment = {name: value for name, value in REQUIRED.items() if name != variable(path)}
    assert leaf(loaded(environment, SECRETS_DIR=str(tmp_path / "run")), path) == SECRETS[path]


@pytest.mark.parametrize("path", SECRETS)
def test_of_two_sources_the_stronger_wins_whichever_way_it_gives_the_secret(
    loaded: Loader, tmp_path: Path, path: str
) -> None:
    section, name = path.split(".")
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / f"{section}__{name}"
    file.write_text(SECRETS[path])
    directory = {"CRM_SYNC_SECRETS_DIR": str(file.parent)}
    required = {name: value for name, value in REQUIRED.items() if name != variable(path)}
    weak = {section: {name: "weak"}}
    missing = {section: {f"{name}_file": "/nowhere"}}
    assert leaf(loaded({**required, **directory}, tree=weak), path) == SECRETS[path]
    assert leaf(loaded(tree=missing), path) == SECRETS[path]
    file.write_text("weak")
    assert leaf(loaded({variable(path): SECRETS[path]}, tree=missing), path) == SECRETS[path]


@pytest.mark.parametrize("path", SECRETS)
def test_of_one_source_a_secret_is_taken_one_way_only(loaded: Loader, path: str) -> None:
    given = {**REQUIRED, variable(path): SECRETS[path], f"{variable(path)}_FILE": "/nowhere"}
    assert problems(loaded, given) == [
        (
            f"{path} ({variable(path)}): is given twice, directly and by {path.split('.')[1]}_file;"
            " keep one of them (it is ***)"
        ),
    ]


def test_a_secret_file_that_can_not_be_read_is_named_with_the_reason(loaded: Loader, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    given = {name: value for name, value in REQUIRED.items() if "PASSWORD" not in name and "SINK" not in name}
    assert problems(
        loaded,
        given,
        BROKER__URL_FILE=str(tmp_path / "none"),
        VICIDIAL__PASSWORD_FILE=str(tmp_path / "empty"),
        SINK__URL_FILE=str(tmp_path / "binary"),
        SINK__SIGNING_SECRET_FILE=str(tmp_path),
    ) == [
        f"broker.url (CRM_SYNC_BROKER__URL_FILE): can't read {tmp_path}/none: No such file or directory",
        f"sink.url (CRM_SYNC_SINK__URL_FILE): can't read {tmp_path}/binary: not UTF-8 text",
        f"sink.signing_secret (CRM_SYNC_SINK__SIGNING_SECRET_FILE): can't read {tmp_path}: Is a directory",
        f"vicidial.password (CRM_SYNC_VICIDIAL__PASSWORD_FILE): {tmp_path}/empty is empty",
    ]


def test_a_secrets_directory_that_can_not_be_used_is_named(loaded: Loader, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert problems(loaded, REQUIRED, SECRETS_DIR=str(missing)) == [
        f"CRM_SYNC_SECRETS_DIR: can't list {missing}: No such file or directory"
    ]
    (tmp_path / "passwd").write_text("x")
    assert problems(loaded, REQUIRED, SECRETS_DIR=str(tmp_path)) == [
        (
            f"CRM_SYNC_SECRETS_DIR: {tmp_path}/passwd is no secret; known are"
            " broker__url, sink__url, sink__signing_secret, vicidial__password"
        ),
    ]


def test_no_secret_is_shown_in_a_repr(loaded: Loader) -> None:
    address = f"https://web:{SECRET}@dialer.example/non_agent_api.php"
    given = {**REQUIRED, **{variable(path): value for path, value in SECRETS.items()}}
    settings = loaded({**given, "CRM_SYNC_VICIDIAL__URL": address})
    for secret in (*SECRETS.values(), "secret@"):
        assert secret not in repr(settings)
        assert secret not in str(settings)


def test_every_secret_is_listed_for_the_log_to_leave_out(loaded: Loader) -> None:
    settings = loaded(
        {**REQUIRED, **{variable(path): value for path, value in SECRETS.items()}},
        BROKER__URL="amqp://user:p%40ss@broker.example/",
    )
    expected = {*SECRETS.values(), "p%40ss", "p@ss"}  # of the broker's address its password alone
    expected |= {SIGNING_SECRET.removeprefix("whsec_")}
    assert expected - {SECRETS["broker.url"]} == set(settings.secrets())


def test_what_of_an_address_may_be_a_key_is_a_secret_too(loaded: Loader) -> None:
    settings = loaded(
        REQUIRED,
        SINK__URL="https://me:p%24@crm.example/crm-sync/call-ended/vicidial/T0kenT0ken/ab%2Fcdef?key=a%2Bb&x",
        VICIDIAL__URL="https://web:b%40sic@dialer.example/vicidial/non_agent_api.php?pass=y",
    )
    assert set(settings.secrets()) == {
        *("guest", SECRET, leaf(settings, "sink.url")),
        *("me", "p%24", "p$", "me:p$", "T0kenT0ken", "ab%2Fcdef", "ab/cdef", "a%2Bb", "a+b", "x"),
        *("web", "b%40sic", "b@sic", "web:b@sic", "y"),
    }


@pytest.mark.parametrize("password", ["crm-sync", "vicidial", "call-ended"])
def test_a_password_is_a_secret_even_if_it_is_a_word_of_ours(loaded: Loader, password: str) -> None:
    given = {**REQUIRED, "CRM_SYNC_VICIDIAL__PASSWORD": password}
    assert password in loaded(given).secrets()
    address = f"https://me:{password}@crm.example/{password}"
    assert password in loaded({**REQUIRED, "CRM_SYNC_SINK__URL": address}).secrets()


BROKEN = {
    "CRM_SYNC_BROKER__URL": f"http://user:{SECRET}@broker.example/",
    "CRM_SYNC_VICIDIAL__URL": f"ftp://user:{SECRET}@dialer.example/",
    "CRM_SYNC_SINK__URL": f"crm.example/{SECRET}",
    "CRM_SYNC_SINK__SIGNING_SECRET": f"{SECRET}!",
}


@pytest.mark.parametrize(
    "given",
    [
        {**REQUIRED, **BROKEN},
        {**REQUIRED, "CRM_SYNC_BROKER__URL": f"amqp://user:{SECRET}\u2100@broker.example/"},
        {**REQUIRED, "CRM_SYNC_BROKER__URL": f"amqp://user:[{SECRET}]@broker.example/"},
        {**REQUIRED, "CRM_SYNC_BROKER__URL": f"amqp://user:{SECRET}/x@broker.example/"},
        {**REQUIRED, "CRM_SYNC_BROKER__URL": f"amqp://user:{SECRET}#x@broker.example/"},
        {**REQUIRED, "CRM_SYNC_VICIDIAL__PASWORD": SECRET},
        {**REQUIRED, "CRM_SYNC_VICIDIAL": SECRET},
    ],
    ids=["all", "NFKC", "brackets", "slash", "hash", "misspelt", "section"],
)
def test_no_secret_is_shown_in_a_problem(loaded: Loader, given: dict[str, str]) -> None:
    assert SECRET not in str(problems(loaded, given))


@pytest.mark.parametrize(
    "tree",
    [
        {"vicidial": {"password": [SECRET]}},
        {"vicidial": {"passwort": SECRET}},
        {"vicidial": SECRET},
        {"password": SECRET},
        f"vicidial: {{password: {SECRET}",
        f"- {SECRET}",
    ],
    ids=str,
)
def test_nor_in_a_problem_of_the_yaml_file(loaded: Loader, tree: object) -> None:
    given = {name: value for name, value in REQUIRED.items() if "PASSWORD" not in name}
    assert SECRET not in str(problems(loaded, given, tree=tree))


def test_the_password_file_is_read_again_when_asked(loaded: Loader, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    given = {name: value for name, value in REQUIRED.items() if "PASSWORD" not in name}
    settings = loaded(given, VICIDIAL__PASSWORD_FILE=str(file)).vicidial
    file.write_text("new\n")
    assert settings.password.get_secret_value() == "old"
    assert settings.reread().password.get_secret_value() == "new"
    assert settings.reread().user == settings.user
    file.unlink()
    with pytest.raises(ValueError, match="can't read"):
        settings.reread()


def test_a_password_given_directly_stays_when_read_again(loaded: Loader) -> None:
    settings = loaded(REQUIRED).vicidial
    assert settings.reread() == settings


# --- problems -------------------------------------------------------------------------------------


def test_nothing_given_names_everything_required(loaded: Loader) -> None:
    assert problems(loaded) == [
        "sink.url (CRM_SYNC_SINK__URL): is required: the CRM's address, unless sink.kind is queue or crm",
        (
            "vicidial.url (CRM_SYNC_VICIDIAL__URL): is required: the full address of non_agent_api.php,"
            f" such as {DIALER}"
        ),
        "vicidial.user (CRM_SYNC_VICIDIAL__USER): is required: the API user's name",
        "vicidial.password (CRM_SYNC_VICIDIAL__PASSWORD): is required: the API user's password",
    ]


def test_what_is_required_may_not_be_empty(loaded: Loader) -> None:
    said = problems(loaded, dict.fromkeys(REQUIRED, ""))
    assert [line.partition(" ")[0] for line in said] == [
        "sink.url",
        "vicidial.url",
        "vicidial.user",
        "vicidial.password",
    ]


def test_every_problem_of_every_source_is_named_at_once(loaded: Loader, tmp_path: Path) -> None:
    tree = {"brokr": {"url": "x"}, "vicidial": {"usr": "x"}, "log": "debug", "max_in_flight": 0, 5: "x"}
    given = {"CRM_SYNC_SINK_URL": "x", "CRM_SYNC_HTTP": "x", "CRM_SYNC_VICIDIAL__URL__X": "x"}
    said = problems(loaded, {**REQUIRED, **given}, tree=tree, DRAIN="26m", HTTP__PORT="65536")
    assert said == [
        "CRM_SYNC_HTTP: no such setting; did you mean CRM_SYNC_HTTP__PORT?",
        "CRM_SYNC_SINK_URL: no such setting; did you mean CRM_SYNC_SINK__URL?",
        "CRM_SYNC_VICIDIAL__URL__X: no such setting; did you mean CRM_SYNC_VICIDIAL__URL?",
        "log: is a section; write each of its settings on a line of its own below it",
        "brokr: no such setting; did you mean broker.url?",
        "vicidial.usr: no such setting; did you mean vicidial.user?",
        "5: no such setting",
        "http.port (CRM_SYNC_HTTP__PORT): must be a whole number from 0 to 65535 (it is '65536')",
        f"max_in_flight ({tmp_path}/crm-sync.yaml): must be a whole number from 1 to 10000 (it is '0')",
        (
            "drain (CRM_SYNC_DRAIN): must be at most 25m, as RabbitMQ gives up on a consumer after 30"
            " (it is '26m')"
        ),
    ]


def test_a_wrong_kind_of_value_in_the_yaml_file_is_named_with_the_file(
    loaded: Loader, tmp_path: Path
) -> None:
    tree = {
        "vicidial": {"password_file": [5], "recording_lookup": 7, "not_final": {"a": 1}, "timezone": 5},
        "sink": {"exchange": [5]},
        "retry": {"delays": {"a": 1}, "max_attempts": 2.5},
        "http": {"host": {"a": 1}},
    }
    given = {name: value for name, value in REQUIRED.items() if "PASSWORD" not in name}
    said = dict(line.split(f" ({tmp_path}/crm-sync.yaml): ") for line in problems(loaded, given, tree=tree))
    assert said == {
        "sink.exchange": (
            "must be text: For `queue`: the outbound exchange; unset: `<namespace>.enriched` (it is ['5'])"
        ),
        "retry.delays": (
            "must be a list, or text with commas: The delay of each tier; the last one repeats"
            " (it is {'a': '1'})"
        ),
        "retry.max_attempts": "must be a whole number from 1 to 1000 (it is '2.5')",
        "vicidial.password_file": (
            "must be the path of a file: A file that holds the API user's password (it is ['5'])"
        ),
        "vicidial.timezone": "is no IANA time zone; write one such as America/New_York (it is '5')",
        "vicidial.not_final": (
            "must be a list, or text with commas: Statuses that are not final; an empty item means no status"
            " yet (it is {'a': '1'})"
        ),
        "vicidial.recording_lookup": "must be true or false (it is '7')",
        "http.host": "must be text: The address to listen on (it is {'a': '1'})",
    }


CONFIG_MAP = {
    "BROKER__URL": f"http://user:{SECRET}@broker.example/",
    "BROKER__NAMESPACE": "two words",
    "VICIDIAL__URL": f"https:/api:{SECRET}@dialer.example/non_agent_api.php?pass={SECRET}",
    "VICIDIAL__PASSWORD_FILE": "/nowhere/password",
    "VICIDIAL__SOURCE": "crm-sync",
    "VICIDIAL__METHOD": "PUT",
    "VICIDIAL__TIMEOUT": "10 parsecs",
    "VICIDIAL__MAX_CONCURRENCY": "0",
    "VICIDIAL__TIMEZONE": "EST5",
    "VICIDIAL__RECORDING_LOOKUP": "perhaps",
    "VICIDIAL__USER_DETAILS_CACHE": "5d",
    "SINK__KIND": "webhok",
    "SINK__URL": f"crm.example/{SECRET}",
    "SINK__SIGNING_SECRET": SECRET,
    "RETRY__DELAYS": "30s,5s",
    "RETRY__MAX_ATTEMPTS": "many",
    "CIRCUIT_BREAKERS__PROBE_MAX": "0",
    "HTTP__PORT": "http",
    "LOG__LEVEL": "loud",
    "MAX_IN_FLIGHT": "20000",
    "DRAIN": "26m",
    "DUPLICATES_WINDOW": "",
    "BROKER_NAMESPACE": "crm-sync",
    "VICIDIAL__PASWORD": SECRET,
}
"""A mistake each. One more: `vicidial.user` is missing."""
UNKNOWN = {"BROKER_NAMESPACE", "VICIDIAL__PASWORD"}
SECRET_ONES = {"BROKER__URL", "SINK__URL", "SINK__SIGNING_SECRET"}


def test_each_mistake_of_a_config_map_is_named_once_with_its_value_and_what_would_be_right(
    loaded: Loader,
) -> None:
    said = problems(loaded, **CONFIG_MAP)
    assert len(said) == len(CONFIG_MAP) + 1
    assert [line for line in said if "vicidial.user (CRM_SYNC_VICIDIAL__USER): is required: " in line]
    for name, value in CONFIG_MAP.items():
        lines = [line for line in said if re.search(rf"\bCRM_SYNC_{name}\b[):]", line)]
        assert len(lines) == 1, (name, lines)
        if name in UNKNOWN:
            assert "did you mean CRM_SYNC_" in lines[0]
        elif name.endswith("_FILE"):
            assert f"can't read {value}: No such file or directory" in lines[0]
        else:
            shown = "***" if name in SECRET_ONES else f"'{value}'"
            shown = "'https:/***@dialer.example/non_agent_api.php?***'" if "api:" in value else shown
            assert lines[0].endswith(f" (it is {shown})")
        assert re.search(r": (must|should|use|write|name|is|a|can't|no) .{15}", lines[0]), lines[0]
    assert SECRET not in "".join(said)


def test_of_two_sources_the_one_at_fault_is_named(loaded: Loader, tmp_path: Path) -> None:
    tree = {"drain": "26m", "http": {"port": "http"}, "log": {"level": "loud"}}
    assert problems(loaded, REQUIRED, tree=tree, DRAIN="27m", HTTP__PORT="8080") == [
        (
            f"log.level ({tmp_path}/crm-sync.yaml): should be 'debug', 'info', 'warning' or 'error'"
            " (it is 'loud')"
        ),
        (
            "drain (CRM_SYNC_DRAIN): must be at most 25m, as RabbitMQ gives up on a consumer after 30"
            " (it is '27m')"
        ),
    ]


DURATION = "write a duration such as 500ms, 5s, 2m, 1h or a number of seconds"
LADDER = "name at least one delay, each longer than the one before it, such as 5s,30s,2m"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("broker.namespace", "two words", "use 1 to 100 letters, digits, dots, dashes and underscores"),
        ("broker.namespace", "", "use 1 to 100 letters"),
        (
            "vicidial.source",
            "crm-sync",
            "must fit this: The `source` of each request, 2 to 20 letters and digits (it is",
        ),
        ("vicidial.method", "PUT", "should be 'GET' or 'POST' (it is 'PUT')"),
        ("vicidial.url", "dialer.example", f"is not an address such as {DIALER}"),
        ("vicidial.url", "https://dialer.example:0/", "is not an address"),
        ("vicidial.max_concurrency", "0", "must be a whole number from 1 to 1000 (it is '0')"),
        ("vicidial.timezone", "EST5", "is no IANA time zone; write one such as America/New_York"),
        ("vicidial.timezone", "../etc/passwd", "is no IANA time zone"),
        ("vicidial.timeout", "10 parsecs", DURATION),
        ("sink.kind", "mail", "should be 'webhook', 'queue' or 'crm' (it is 'mail')"),
        ("sink.url", "crm.example", "is not an address such as https://crm.example/hooks/calls"),
        ("sink.signing_secret", "letmein", "is not whsec_ followed by base64; make one with"),
        ("retry.delays", "", DURATION),
        ("retry.delays", "5s,", DURATION),
        ("retry.delays", "5s,5s", LADDER),
        ("retry.delays", "30s,5s", LADDER),
        ("vicidial.recording_lookup", "perhaps", "must be true or false (it is 'perhaps')"),
        ("retry.max_attempts", "many", "must be a whole number from 1 to 1000 (it is 'many')"),
        ("retry.max_attempts", "2.5", "must be a whole number from 1 to 1000 (it is '2.5')"),
        ("http.port", "-1", "must be a whole number from 0 to 65535 (it is '-1')"),
        ("log.level", "loud", "should be 'debug', 'info', 'warning' or 'error' (it is 'loud')"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    loaded: Loader, path: str, value: str, said: str
) -> None:
    (line,) = problems(loaded, {**REQUIRED, variable(path): value})
    assert line.startswith(f"{path} ({variable(path)}): {said}")


def test_a_misspelt_kind_of_sink_hides_no_missing_address(loaded: Loader) -> None:
    given = {name: value for name, value in REQUIRED.items() if "SINK" not in name}
    said = problems(loaded, given, SINK__KIND="webhok")
    assert [line.partition(" ")[0] for line in said] == ["sink.kind", "sink.url"]


def test_a_list_is_no_users_name(loaded: Loader, tmp_path: Path) -> None:
    given = {name: value for name, value in REQUIRED.items() if "USER" not in name}
    (line,) = problems(loaded, given, tree={"vicidial": {"user": ["a"]}})
    wrong = "write the API user's name as plain text (it is ['a'])"
    assert line == f"vicidial.user ({tmp_path}/crm-sync.yaml): {wrong}"


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("a: [", "not YAML in line 1, column 5"),
        ("ok: 1\n\ta: 1", "not YAML in line 2, column 1"),
        ("!!python/object:os.system {}", "not YAML in line 1, column 1"),
        ("\x00", "not YAML"),
        ("- drain: 1s", "not a mapping of settings"),
        ("drain", "not a mapping of settings"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(loaded: Loader, tmp_path: Path, tree: str, said: str) -> None:
    assert problems(loaded, REQUIRED, tree=tree) == [f"--config {tmp_path}/crm-sync.yaml: {said}"]


def test_a_file_that_can_not_be_read_is_named(loaded: Loader, tmp_path: Path) -> None:
    loaded(REQUIRED)
    (tmp_path / "latin").write_bytes(b"# \xe9")
    for name, said in (("none", "No such file or directory"), ("latin", "not UTF-8")):
        with pytest.raises(SettingsError, match=f"--config {tmp_path}/{name}: can't be read: {said}"):
            load(Settings, tmp_path / name)


KUBERNETES = {
    "CRM_SYNC_SERVICE_HOST": "10.0.0.1",
    "CRM_SYNC_SERVICE_PORT": "8080",
    "CRM_SYNC_SERVICE_PORT_HTTP": "8080",
    "CRM_SYNC_PORT": "tcp://10.0.0.1:8080",
    "CRM_SYNC_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "CRM_SYNC_PORT_8080_TCP_PROTO": "tcp",
    "CRM_SYNC_PORT_8080_TCP_PORT": "8080",
    "CRM_SYNC_PORT_8080_TCP_ADDR": "10.0.0.1",
    "CRM_SYNC_METRICS_SERVICE_HOST": "10.0.0.2",
    "CRM_SYNC_METRICS_PORT": "tcp://10.0.0.2:9090",
}


def test_the_variables_of_a_kubernetes_service_with_our_name_are_no_settings(loaded: Loader) -> None:
    assert loaded({**REQUIRED, **KUBERNETES}).http.port == 8080


@pytest.mark.parametrize("name", ["CRM_SYNC_PORT", "CRM_SYNC_HTTP_PORT", "CRM_SYNC_SERVICE"])
def test_what_only_looks_like_one_is_still_named(loaded: Loader, name: str) -> None:
    (line,) = problems(loaded, {**REQUIRED, name: "8080"})
    assert line.startswith(f"{name}: no such setting")


def test_a_queue_needs_no_address(loaded: Loader) -> None:
    given = {name: value for name, value in REQUIRED.items() if name != "CRM_SYNC_SINK__URL"}
    sink = loaded(given, SINK__KIND="queue", SINK__EXCHANGE="theirs").sink
    assert (sink.url, sink.exchange) == (None, "theirs")


@pytest.mark.parametrize(
    ("environment", "tree", "problem"),
    [
        ({}, {"gates": {}}, "gates: is now called circuit_breakers"),
        ({}, {"gates": {"probe_max": "1m"}}, "gates: is now called circuit_breakers"),
        (
            {"CRM_SYNC_GATES__PROBE_MAX": "1m"},
            None,
            "CRM_SYNC_GATES__PROBE_MAX: is now called CRM_SYNC_CIRCUIT_BREAKERS__PROBE_MAX",
        ),
        (
            {"crm_sync_gates__refused_probe": "1m"},
            None,
            "crm_sync_gates__refused_probe: is now called CRM_SYNC_CIRCUIT_BREAKERS__REFUSED_PROBE",
        ),
        ({}, {"gates.probe_max": "1m"}, "gates.probe_max: is now called circuit_breakers.probe_max"),
    ],
)
def test_the_old_name_of_a_setting_is_an_error_that_says_the_new_one(
    loaded: Loader, environment: dict[str, str], tree: dict[str, object] | None, problem: str
) -> None:
    assert problems(loaded, REQUIRED | environment, tree=tree) == [problem]


# --- the commands that only talk to the broker ----------------------------------------------------


def test_a_broker_command_needs_no_setting_at_all(loaded: Loader) -> None:
    settings = loaded(kind=BrokerCommandSettings)
    assert leaf(settings, "broker.url") == DEFAULTS["broker.url"]
    assert settings.retry.delays == DEFAULTS["retry.delays"]
    assert set(dict(settings.vicidial)) == {"ready_within"}, "of the dialer, what names retry queues"


def test_a_broker_command_looks_at_nothing_else(loaded: Loader) -> None:
    given = {"CRM_SYNC_VICIDIAL__URL": "wrong", "CRM_SYNC_SINK__URL": "wrong", "CRM_SYNC_HTTP__PORT": "wrong"}
    tree = {"drain": "wrong", "sink": {"kind": "queue", "timeout": "wrong", "exchange": "out"}}
    settings = loaded(given, tree=tree, kind=BrokerCommandSettings)
    assert (settings.sink.kind, settings.sink.exchange) == ("queue", "out")


def test_a_broker_command_is_still_strict_about_names(loaded: Loader) -> None:
    tree = {"brokr": {}, "sink": {"knd": "queue"}, "vicidial": {"usr": "x"}, "broker": {"ulr": "x"}}
    assert problems(loaded, {"CRM_SYNC_BROKER_URL": "x"}, tree=tree, kind=BrokerCommandSettings) == [
        "CRM_SYNC_BROKER_URL: no such setting; did you mean CRM_SYNC_BROKER__URL?",
        "brokr: no such setting; did you mean broker.url?",
        "sink.knd: no such setting; did you mean sink.kind?",
        "vicidial.usr: no such setting; did you mean vicidial.user?",
        "broker.ulr: no such setting; did you mean broker.url?",
    ]


# --- the command ----------------------------------------------------------------------------------


def test_run_with_wrong_settings_names_them_all_exits_with_2_and_opens_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # noqa: FBT003 - positional only
        port = server.getsockname()[1]
        given = {
            "CRM_SYNC_BROKER__URL": f"amqp://guest:{SECRET}@127.0.0.1:{port}/",
            "CRM_SYNC_VICIDIAL__URL": f"http://127.0.0.1:{port}/non_agent_api.php",
            "CRM_SYNC_VICIDIAL__PASSWORT": SECRET,
            "CRM_SYNC_SINK__URL": f"http://127.0.0.1:{port}/",
            "CRM_SYNC_HTTP__PORT": "http",
        }
        done = subprocess.run(
            [sys.executable, "-m", "worker", "run"],
            env={"PATH": os.environ["PATH"], **given},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "crm-sync: 4 settings are wrong:",
        "  CRM_SYNC_VICIDIAL__PASSWORT: no such setting; did you mean CRM_SYNC_VICIDIAL__PASSWORD?",
        "  vicidial.user (CRM_SYNC_VICIDIAL__USER): is required: the API user's name",
        "  vicidial.password (CRM_SYNC_VICIDIAL__PASSWORD): is required: the API user's password",
        "  http.port (CRM_SYNC_HTTP__PORT): must be a whole number from 0 to 65535 (it is 'http')",
    ]
