"""What HubSpot's properties may hold: formats, options, and the numbers that it calculates.

Source: the guides "Calls", "Tasks", "CRM search" and "Properties" on developers.hubspot.com.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

# The guide "Calls" lists them; an account may have more, see GET /calling/v1/dispositions.
DISPOSITIONS: Final[Mapping[str, str]] = {
    "9d9162e7-6cf3-4944-bf63-4dff82258764": "Busy",
    "f240bbac-87c9-4f6e-bf70-924b57d47db7": "Connected",
    "a4c4c377-d246-4b32-a13b-75a56a4cd0ff": "Left live message",
    "b2cf5968-551e-4856-9783-52b3da59a7d0": "Left voicemail",
    "73a0d17f-1163-4015-bdd5-ec830791da20": "No answer",
    "17b47fee-58de-441e-a44c-c6300d46f273": "Wrong number",
}
CALL_STATUSES: Final = (
    *("BUSY", "CALLING_CRM_USER", "CANCELED", "COMPLETED", "CONNECTING"),
    *("FAILED", "IN_PROGRESS", "NO_ANSWER", "QUEUED", "RINGING"),
)

_MAX_TEXT = 65_536  # guide "Calls", and "Property field types" of the knowledge base
_CALLING_CODES = ("1", "31", "33", "44", "49")


@dataclass(slots=True)
class Property:
    """What HubSpot knows of one property: `string`, `number`, `datetime`, `enumeration`, `owner` or `url`."""

    type: str = "string"
    options: tuple[str, ...] = ()
    unique: bool = False
    read_only: bool = False
    group: str = ""
    label: str = ""

    def complaint(self, value: str, owners: Collection[str]) -> tuple[str, str] | None:
        """Return the code and text of what is wrong with a value, or None."""
        problem = None
        if len(value) > _MAX_TEXT:
            problem = "PROPERTY_VALUE_TOO_LONG", f"at most {_MAX_TEXT} characters"
        elif self.type == "enumeration" and value not in self.options:
            problem = "INVALID_OPTION", f"{value} was not one of the allowed options: {list(self.options)}"
        elif self.type == "number" and re.fullmatch(r"-?\d+(\.\d+)?", value) is None:
            problem = "INVALID_NUMBER", f"{value} was not a valid number."
        elif self.type == "datetime" and not _is_time(value):
            problem = "INVALID_LONG", f"{value} was not a valid long."
        elif self.type == "url" and not value.startswith("https://"):  # guide "Calls"
            problem = "INVALID_URL", f"{value} must be an https address"
        elif self.type == "owner" and value not in owners:
            problem = "INVALID_OWNER_ID", f"{value} is no owner of this account"
        return problem


def standard_properties() -> dict[str, dict[str, Property]]:
    """Return the properties that a new account has and that matter here, by type and name."""
    common = {"hs_timestamp": Property("datetime"), "hubspot_owner_id": Property("owner")}
    calls = {
        **common,
        **{name: Property() for name in ("hs_call_title", "hs_call_body", "hs_activity_type")},
        **{name: Property() for name in ("hs_call_from_number", "hs_call_to_number")},
        **{name: Property() for name in ("hs_call_callee_object_id", "hs_call_callee_object_type")},
        "hs_call_direction": Property("enumeration", ("INBOUND", "OUTBOUND")),
        "hs_call_duration": Property("number"),
        "hs_call_status": Property("enumeration", CALL_STATUSES),
        "hs_call_disposition": Property("enumeration", tuple(DISPOSITIONS)),
        "hs_call_recording_url": Property("url"),
        "hs_call_source": Property("enumeration", ("INTEGRATIONS_PLATFORM",)),
    }
    tasks = {
        **common,
        **{name: Property() for name in ("hs_task_subject", "hs_task_body")},
        "hs_task_status": Property(
            "enumeration", ("NOT_STARTED", "IN_PROGRESS", "WAITING", "COMPLETED", "DEFERRED")
        ),
        "hs_task_priority": Property("enumeration", ("NONE", "LOW", "MEDIUM", "HIGH")),
        "hs_task_type": Property("enumeration", ("EMAIL", "CALL", "TODO")),
    }
    contacts = {
        **{name: Property() for name in ("firstname", "lastname", "phone", "mobilephone")},
        "email": Property(unique=True),
        "hubspot_owner_id": Property("owner"),
        "hs_searchable_calculated_phone_number": Property(read_only=True),
        "hs_searchable_calculated_mobile_number": Property(read_only=True),
    }
    return {"calls": calls, "tasks": tasks, "contacts": contacts}


def calculated(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the searchable numbers, which have no calling code (guide "CRM search", phone numbers)."""
    return {
        f"hs_searchable_calculated_{which}_number": _national(str(fields.get(name) or ""))
        for which, name in (("phone", "phone"), ("mobile", "mobilephone"))
    }


def _national(number: str) -> str:
    """Return a number without its calling code; of the codes, this knows only a few."""
    digits = re.sub(r"\D", "", number)
    if number.startswith("+"):
        code = next((each for each in _CALLING_CODES if digits.startswith(each)), "")
        return digits.removeprefix(code)
    return digits[1:] if len(digits) == 11 and digits.startswith("1") else digits.removeprefix("0")


def described(name: str, known: Property) -> dict[str, Any]:
    """Return a property as the API shows it."""
    return {
        "name": name,
        "label": known.label or name,
        "type": known.type,
        "groupName": known.group,
        "hasUniqueValue": known.unique,
    }


def _is_time(value: str) -> bool:
    """Return whether this is a time in epoch milliseconds, or ISO 8601 in UTC (guide "Calls")."""
    if value.isdecimal():
        return len(value) == 13
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return False
    return at.tzinfo is not None and at.utcoffset() == UTC.utcoffset(None)
