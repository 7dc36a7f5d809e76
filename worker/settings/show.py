"""The settings in force, as an operator may see them: secrets masked, each with where it comes from."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from pathlib import Path

from pydantic import SecretStr

from worker.core.retry import format_delay
from worker.settings.explain import MASK, masked_address
from worker.settings.load import leaves, sources
from worker.settings.tree import BrokerCommandSettings

DEFAULT = "default"
"""The source of a setting that is not given."""

_TO_HOST = re.compile(r"\w+://[^/?]*")


@dataclass(frozen=True, slots=True)
class InForce:
    """One setting: its path, such as `broker.url`, its value in words, and its source."""

    name: str
    value: str
    source: str


def in_force(settings: BrokerCommandSettings, config: Path | None = None) -> Iterator[InForce]:
    """Go through the settings that were loaded (with that YAML file, if any), by name.

    A secret that stands in a file is one setting, not two: the file is its source.
    """
    origins = sources(config)
    values = dict(_values(settings))
    for name, value in sorted(values.items()):
        source = origins.get(name, DEFAULT)
        if (file := values.get(f"{name}_file")) is not None:
            source = f"{file} ({source})"
        if not (name.endswith("_file") and name.removesuffix("_file") in values):
            yield InForce(name, _shown(value), source)


def _values(settings: BrokerCommandSettings) -> Iterator[tuple[str, object]]:
    for path, _ in leaves(type(settings)):
        yield path, reduce(getattr, path.split("."), settings)


def _shown(value: object) -> str:
    match value:
        case None:
            shown = "-"
        case SecretStr():
            shown = _masked(value.get_secret_value())
        case bool():
            shown = str(value).lower()
        case timedelta():
            shown = format_delay(value)
        case tuple():
            shown = ",".join(map(_shown, value))
        case frozenset():
            shown = ",".join(sorted(map(_shown, value)))
        case _:
            text = str(value)
            shown = masked_address(text) if "://" in text else text
    return shown


def _masked(secret: str) -> str:
    """Mask a secret; of an address show the host, and of a broker's the virtual host, as neither is one."""
    if "://" not in secret:
        return MASK
    address = masked_address(secret)
    host = _TO_HOST.match(address)
    if address.startswith("amqp") or host is None:
        return address
    return host[0] if address[host.end() :] in {"", "/"} else f"{host[0]}/{MASK}"
