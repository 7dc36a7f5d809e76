"""The fields of a Zoho CRM call: what each may hold.

Sources: the help page "Standard Modules & Fields" (help.zoho.com), and "Insert Records" of Zoho's
documentation of the API. Picklists have the values of a new account; an account may have others.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

_RESULTS = (
    *("Interested", "Not interested", "No response/Busy", "Requested more info"),
    *("Requested call back", "Invalid number"),
)
_PURPOSES = ("Prospecting", "Administrative", "Negotiation", "Demo", "Project", "Desk")


def _pattern(expression: str, kind: str) -> Callable[[Any], None]:
    def check(value: object) -> None:
        if not isinstance(value, str) or not re.fullmatch(expression, value):
            raise ValueError(kind)

    return check


def _one_of(*values: str) -> Callable[[Any], None]:
    def check(value: object) -> None:
        if value not in values:
            raise ValueError("picklist")

    return check


def check_text(longest: int) -> Callable[[Any], None]:
    """Make the check of a text of at most so many characters."""

    def check(value: object) -> None:
        if not isinstance(value, str):
            raise ValueError("string")  # noqa: TRY004 - the type that Zoho names
        if len(value) > longest:
            raise ValueError(longest)

    return check


def _lookup(value: object) -> None:
    if not isinstance(value, dict) or set(value) != {"id"} or not isinstance(value["id"], str):
        raise ValueError("jsonobject")


# An offset, and no fractions of a second: "Insert Records", samples of date-time fields.
_datetime = _pattern(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", "datetime")


def _start(value: object) -> None:
    _datetime(value)
    try:
        datetime.fromisoformat(str(value))
    except ValueError as error_:
        raise ValueError("datetime") from error_


FIELDS: Final[Mapping[str, Callable[[Any], None]]] = {
    "Subject": check_text(255),
    "Call_Type": _one_of("Inbound", "Outbound", "Missed"),
    "Call_Start_Time": _start,
    "Call_Duration": _pattern(r"\d{2,}:[0-5]\d", "string"),
    "Outgoing_Call_Status": _one_of("Completed", "Scheduled", "Overdue", "Cancelled"),
    "Call_Result": _one_of(*_RESULTS),
    "Call_Purpose": _one_of(*_PURPOSES),
    "Description": check_text(32_000),
    "Dialled_Number": check_text(50),
    "Caller_ID": check_text(50),
    "Voice_Recording__s": _pattern(r"https?://\S+", "website"),
    "Owner": _lookup,
    "Who_Id": _lookup,
    "What_Id": _lookup,
    "$se_module": _one_of("Contacts", "Leads", "Accounts", "Deals"),
}
"""By API name: raises `ValueError` with the type that was expected, or the greatest length."""
