"""What the tests of the settings share."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from worker.settings import Settings, SettingsError

SECRET = "hunter2-hunter2"
SIGNING_SECRET = "whsec_" + base64.b64encode(2 * SECRET.encode()).decode()
DIALER = "https://dialer.example/vicidial/non_agent_api.php"
REQUIRED = {
    "CRM_SYNC_VICIDIAL__URL": DIALER,
    "CRM_SYNC_VICIDIAL__USER": "api",
    "CRM_SYNC_VICIDIAL__PASSWORD": SECRET,
    "CRM_SYNC_SINK__URL": "https://crm.example/hooks/calls",
}

Loader = Callable[..., Settings]


def problems(load_these: Loader, *args: object, **settings: object) -> list[str]:
    """Load what can't be used, and give what is said of it."""
    with pytest.raises(SettingsError) as caught:
        load_these(*args, **settings)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def leaf(settings: Settings, path: str) -> Any:  # noqa: ANN401 - whatever the setting is
    """Follow a path such as `broker.url`; of a single address return that."""
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    if isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def variable(path: str) -> str:
    """Return the name of a setting's variable."""
    return "CRM_SYNC_" + path.upper().replace(".", "__")
