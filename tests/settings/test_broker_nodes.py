"""`broker.url` for a cluster: several addresses, in each source, and what is wrong with each."""

from pathlib import Path
from typing import Any

import pytest

from tests.settings.loading import REQUIRED, Loader, problems
from worker.settings import Settings
from worker.settings.load import sources
from worker.settings.show import in_force

FIRST, SECOND, THIRD = (f"amqp://me:Pass-{n}@b{n}.example:5672/calls" for n in (1, 2, 3))
VARIABLE = "CRM_SYNC_BROKER__URL"


def urls(settings: Settings) -> list[str]:
    return [url.get_secret_value() for url in settings.broker.url]


@pytest.mark.parametrize("between", [",", ", ", " , ", "\n", "\r\n", ",\n", "\n\n", "\n  "])
@pytest.mark.parametrize("around", ["", "\n", " "])
@pytest.mark.parametrize("in_file", [True, False])
def test_addresses_in_a_variable_or_a_file(
    loaded: Loader, tmp_path: Path, between: str, around: str, *, in_file: bool
) -> None:
    text = around + between.join([FIRST, SECOND, THIRD]) + around
    file = tmp_path / "urls"
    file.write_bytes(text.encode())
    given = {f"{VARIABLE}_FILE": str(file)} if in_file else {VARIABLE: text}
    assert urls(loaded({**REQUIRED, **given})) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("given", [[FIRST, SECOND], f"{FIRST}, {SECOND}", f'["{FIRST}", "{SECOND}"]'])
def test_addresses_in_the_yaml_file(loaded: Loader, given: object) -> None:
    assert urls(loaded(REQUIRED, {"broker": {"url": given}})) == [FIRST, SECOND]


def test_a_list_in_brackets_in_a_variable(loaded: Loader) -> None:
    assert urls(loaded({**REQUIRED, VARIABLE: f'["{FIRST}", "{SECOND}"]'})) == [FIRST, SECOND]


def test_a_comma_in_a_password_separates_nothing(loaded: Loader) -> None:
    url = "amqp://me:one,two@b1.example/"
    assert urls(loaded({**REQUIRED, VARIABLE: f"{url},{url.replace('b1', 'b2')}"})) == [
        url,
        url.replace("b1", "b2"),
    ]


OTHER_HOST = "names another virtual host than the one before it"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([FIRST, "http://b2.example/", "amqp://"], ["address 2 of 3 is not an", "address 3 of 3 is not an"]),
        ([FIRST, "amqp://me@b2.example/calls"], ["address 2 of 2 names a user without a password"]),
        ([FIRST, f"{SECOND}?x=1", THIRD], ["address 2 of 3 has a query of which only"]),
        ([FIRST, FIRST], ["address 2 of 2 is listed twice"]),
        ([FIRST, "amqp://b2.example/"], [f"address 2 of 2 {OTHER_HOST}"]),
        ([FIRST, ""], ["address 2 of 2 is not an address such as"]),
        ([f"amqp://b{n}.example/" for n in range(11)], ["must be 1 to 10 addresses"]),
        (["amqp://me:Pass-1@b1.example:5672,b2.example:5672/"], ["is not an address such as"]),
    ],
)
def test_each_bad_address_is_named_by_its_number(loaded: Loader, given: list[str], said: list[str]) -> None:
    (problem,) = problems(loaded, {**REQUIRED, VARIABLE: ",".join(given)})
    assert problem.startswith(f"broker.url ({VARIABLE}): ")
    assert all(each in problem for each in said), problem
    assert "Pass-" not in problem


@pytest.mark.parametrize("written", ["[]", "{a: b}", "[[x]]", f"[{FIRST}, null]", "[amqp://a/, "])
def test_what_is_no_list_of_addresses(loaded: Loader, written: str) -> None:
    found = problems(loaded, {**REQUIRED, VARIABLE: written})
    assert [each for each in found if each.startswith("broker.url ")], found


def test_each_password_is_masked_and_scrubbed(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = loaded({**REQUIRED, VARIABLE: f"{FIRST},{SECOND}"})
    assert {"Pass-1", "Pass-2"} <= set(settings.secrets())
    assert "Pass-" not in repr(settings)
    monkeypatch.setenv(VARIABLE, f"{FIRST},{SECOND}")
    shown = {each.name: each.value for each in in_force(settings, sources())}
    assert shown["broker.url"] == "amqp://***@b1.example:5672/calls,amqp://***@b2.example:5672/calls"
