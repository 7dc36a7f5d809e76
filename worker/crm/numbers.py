"""Telephone numbers in the forms that CRMs store; by phonenumbers if it is installed (extra `crm`)."""

import importlib
import re
from functools import lru_cache
from typing import Any, Final

LONGEST: Final = 40
"""In characters; longer text is no number."""


def number_forms(text: object, region: str | None, code: object = None) -> dict[str, Any]:
    """Return the forms of a number.

    Args:
        text: The number as the dialer writes it.
        region: The country of numbers without a country code, such as `US`.
        code: The number's country code, if it is known.

    Returns:
        `e164` and `national` (digits without the country code; both null for a number that can't be),
        `digits` (as the dialer has them) and `spellings` (ways in which people write it, for CRMs that
        compare text). Without the library, `national` is the digits and `e164` is null, unless the number
        begins with a plus.
    """
    written = "" if text is None else str(text).strip()
    digits = re.sub(r"[^0-9]", "", written)
    if not digits or len(written) > LONGEST:
        return {"e164": None, "national": None, "digits": digits[:LONGEST] or None, "spellings": []}
    library = _library()
    forms = dict(_forms(library, written, region, re.sub(r"[^0-9]", "", str(code or ""))[:4]))
    return {**forms, "digits": digits, "spellings": list(forms["spellings"])}


def is_region(region: str) -> bool:
    """Return whether a country has a numbering plan; without the library, every one has."""
    library = _library()
    return library is None or region in library.SUPPORTED_REGIONS


def _library() -> Any:
    try:
        return importlib.import_module("phonenumbers")
    except ImportError:  # the extra is not installed
        return None


@lru_cache(maxsize=4096)
def _forms(phonenumbers: Any, written: str, region: str | None, code: str) -> dict[str, Any]:
    digits = re.sub(r"[^0-9]", "", written)
    if phonenumbers is None:
        e164 = f"+{digits}" if written.startswith("+") else None
        return {"e164": e164, "national": digits, "spellings": (digits,)}
    found = _parsed(phonenumbers, written, region, code)
    if found is None:
        return {"e164": None, "national": None, "spellings": (digits,)}
    formats = phonenumbers.PhoneNumberFormat
    e164 = phonenumbers.format_number(found, formats.E164)
    national = phonenumbers.national_significant_number(found)
    spoken = phonenumbers.format_number(found, formats.NATIONAL)
    dashes = re.sub(r"[^0-9]+", "-", spoken).strip("-")
    abroad = phonenumbers.format_number(found, formats.INTERNATIONAL)
    spellings = tuple(dict.fromkeys([e164, national, digits, e164[1:], spoken, dashes, abroad]))
    return {"e164": e164, "national": national, "spellings": spellings}


def _parsed(phonenumbers: Any, written: str, region: str | None, code: str) -> Any:
    """Return the number if one is possible: with its own country code, the one given, or the region's."""
    tries = [(f"+{code}{written}", None)] if code and not written.startswith("+") else []
    for text, country in [*tries, (written, region)]:
        try:
            found = phonenumbers.parse(text, country)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_possible_number(found):
            return found
    return None
