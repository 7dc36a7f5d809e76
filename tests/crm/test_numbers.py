"""Telephone numbers in the forms that CRMs store."""

import sys
from typing import Any

import pytest

from worker.crm.numbers import number_forms


@pytest.mark.parametrize(
    ("text", "region", "code", "e164", "national"),
    [
        ("3125551212", "US", None, "+13125551212", "3125551212"),
        ("13125551212", "US", None, "+13125551212", "3125551212"),
        ("442071838750", "GB", None, "+442071838750", "2071838750"),
        ("0171 1234567", "DE", None, "+491711234567", "1711234567"),
        ("2071838750", "US", "44", "+442071838750", "2071838750"),
        ("02071838750", "US", 44, "+442071838750", "2071838750"),
        ("+442071838750", "US", "1", "+442071838750", "2071838750"),
        ("3125551212", "US", "999", "+13125551212", "3125551212"),
        ("3125551212", None, None, None, None),
        ("12", "US", None, None, None),
        ("", "US", None, None, None),
        (None, "US", None, None, None),
        ("1" * 50, "US", None, None, None),
    ],
)
def test_a_number_has_its_forms(
    text: object, region: str | None, code: object, e164: str | None, national: str | None
) -> None:
    found = number_forms(text, region, code)
    assert (found["e164"], found["national"]) == (e164, national)


def test_a_number_has_the_spellings_that_people_use() -> None:
    found = number_forms("3125551212", "US")
    assert found["digits"] == "3125551212"
    assert {"+13125551212", "3125551212", "(312) 555-1212", "312-555-1212"} <= set(found["spellings"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(312) 555-1212", {"e164": None, "national": "3125551212", "digits": "3125551212"}),
        ("+13125551212", {"e164": "+13125551212", "national": "13125551212", "digits": "13125551212"}),
    ],
)
def test_without_the_library_a_number_is_its_digits(
    text: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    found = number_forms(text, "US")
    assert found == {**expected, "spellings": [expected["digits"]]}
