"""The settings: one frozen tree, from the environment, a YAML file and secret files."""

from worker.settings.load import SettingsError, load
from worker.settings.tree import (
    BrokerCommandSettings,
    BrokerSettings,
    CircuitBreakerSettings,
    HttpSettings,
    IntakeCommandSettings,
    IntakeSettings,
    LogSettings,
    RetrySettings,
    Settings,
    SinkSettings,
    VicidialSettings,
)

__all__ = [
    "BrokerCommandSettings",
    "BrokerSettings",
    "CircuitBreakerSettings",
    "HttpSettings",
    "IntakeCommandSettings",
    "IntakeSettings",
    "LogSettings",
    "RetrySettings",
    "Settings",
    "SettingsError",
    "SinkSettings",
    "VicidialSettings",
    "load",
]
