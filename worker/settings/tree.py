"""The tree of settings. Each setting is declared here, once, with a sentence."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import override

from worker.core.events import EventType
from worker.core.signature import SECRET_PREFIX, key_of
from worker.settings.types import (
    Delays,
    Duration,
    DurationOrNone,
    Exchange,
    Folder,
    Host,
    Paths,
    RequestTimeout,
    SecretFile,
    Statuses,
    Table,
    Zone,
    checked_broker_urls,
    checked_url,
    passwords,
    path_segments,
    query_values,
    read_secret,
    required,
    secret_or_file,
    split_addresses,
    users,
    visible,
)

PREFIX = "CRM_SYNC_"
_LONGEST_USER = 100
LONGEST_DRAIN = timedelta(minutes=25)
"""Below RabbitMQ's consumer timeout of 30 minutes, after which it closes the channel."""
LARGEST_WINDOW = 1_000_000
"""Events that are remembered against repeats at most; that takes about 140 MB."""

_OWN_WORDS = {"vicidial", *(name for kind in EventType for name in (kind, kind.replace(".", "-")))}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def secrets(self) -> Iterator[str]:
        """Yield what must not be logged."""
        for _, value in self:
            if isinstance(value, SecretStr):
                yield value.get_secret_value()

    def words(self) -> Iterator[str]:
        """Yield the other parts of an address that may be secret."""
        yield from ()


class BrokerSettings(_Section):
    """RabbitMQ."""

    url_file: SecretFile = Field(None, description="A file that holds the broker's address.")
    url: Annotated[tuple[SecretStr, ...], BeforeValidator(split_addresses), secret_or_file(None)] = Field(
        default=None,
        validate_default=True,
        description=(
            "The broker's address, `amqp://` or `amqps://` (TLS, verified). For a cluster: the addresses of"
            " its nodes, tried in turn, or one that stands for all of them."
        ),
    )
    namespace: str = Field("crm-sync", description="The prefix of all exchanges' and queues' names.")
    events_exchange: Exchange = Field(
        "", validate_default=True, description="The exchange to which producers publish events."
    )

    @field_validator("url", mode="before")
    @classmethod
    def _default_url(cls, value: object, info: ValidationInfo) -> object:
        if value is None and info.data.get("url_file") is None:
            return "amqp://guest:guest@127.0.0.1:5672/"
        return value

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(map(SecretStr, checked_broker_urls([url.get_secret_value() for url in value])))

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
            raise ValueError("use 1 to 100 letters, digits, dots, dashes and underscores")
        if f"{value}.".startswith("amq."):
            raise ValueError("use another one: RabbitMQ keeps names that begin with amq. for itself")
        return value

    @field_validator("events_exchange")
    @classmethod
    def _default_exchange(cls, value: str, info: ValidationInfo) -> str:
        return value or f"{info.data.get('namespace', '')}.events"

    @override
    def secrets(self) -> Iterator[str]:
        """Yield the passwords: the rest of the addresses may be shown."""
        for url in self.url:
            password = urlsplit(url.get_secret_value()).password or ""
            yield from (password, unquote(password))


class DialerWaits(_Section):
    """The part of the dialer's settings that decides which retry queues there are."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    ready_within: Duration = Field(
        timedelta(minutes=15),
        description="How long after the event a call that is not found or not final is looked up again.",
    )


class VicidialSettings(DialerWaits):
    """The dialer's non-agent API."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(
        default=None,
        validate_default=True,
        repr=False,  # it may hold a login
        description="The full address of `non_agent_api.php`.",
    )
    user: str = Field(default=None, validate_default=True, description="The API user.")
    password_file: SecretFile = Field(None, description="A file that holds the API user's password.")
    password: Annotated[SecretStr, AfterValidator(visible), secret_or_file("the API user's password")] = (
        Field(default=None, validate_default=True, description="The API user's password.")
    )
    source: str = Field(
        "crmsync",
        pattern=r"^[A-Za-z0-9]{2,20}$",
        description="The `source` of each request, 2 to 20 letters and digits.",
    )
    method: Literal["GET", "POST"] = Field(
        "GET", description="`POST` keeps the password out of the web server's access log."
    )
    timeout: RequestTimeout = Field(timedelta(seconds=10), description="The timeout of one request.")
    max_concurrency: int = Field(
        8,
        ge=1,
        le=1000,
        description="The most requests at one time, of all workers of the namespace together; fewer while the"
        " dialer is slow.",
    )
    unshared_concurrency: int = Field(
        2,
        ge=1,
        le=1000,
        description="The most requests at one time of one worker that may not use the queue"
        " `<namespace>.dialer`, by which the workers share `max_concurrency`.",
    )
    timezone: Zone | None = Field(
        None, description="The dialer's IANA time zone; unset: its present offset, from `version`."
    )
    not_final: Statuses = Field(
        frozenset({"QUEUE", "INCALL", "DISPO", "DONEM", "XFER", ""}),
        description="Statuses that are not final; an empty item means no status yet.",
    )
    not_found: Literal["dead_letter", "deliver"] = Field(
        "dead_letter",
        description="What happens to a call that the dialer does not know after `ready_within`; `deliver`:"
        " it is delivered with the event's own data.",
    )
    recording_lookup: bool = Field(default=True, description="Look up each final call's recordings.")
    campaigns_list: bool = Field(default=True, description="Look up the campaigns' names.")
    user_details: bool = Field(default=True, description="Look up each agent's level, name and group.")
    agent_campaigns_cache: DurationOrNone = Field(
        timedelta(seconds=10), description="How long an agent's campaigns are cached; 0: not at all."
    )
    campaigns_list_cache: DurationOrNone = Field(
        timedelta(seconds=60), description="How long the campaigns' names are cached; 0: not at all."
    )
    user_details_cache: DurationOrNone = Field(
        timedelta(seconds=60), description="How long an agent's details are cached; 0: not at all."
    )
    ignore_agentdirect: bool = Field(
        default=False, description="Have the dialer leave out the AGENTDIRECT in-groups."
    )

    @field_validator("url", mode="before")
    @classmethod
    def _check_url(cls, value: object) -> object:
        what = (
            "the full address of non_agent_api.php, such as https://dialer.example/vicidial/non_agent_api.php"
        )
        if value is None:
            raise required(what)
        return checked_url(str(value), ("http", "https"), what.rsplit(" ", 1)[-1])

    @field_validator("user", mode="before")
    @classmethod
    def _check_user(cls, value: object) -> object:
        if value is None or value == "":
            raise required("the API user's name")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError("write the API user's name as plain text")  # noqa: TRY004 - pydantic's
        name = str(value)
        if len(name) > _LONGEST_USER or not all(sign.isalpha() or sign in "-_0123456789" for sign in name):
            raise ValueError(
                "use letters, digits, dashes and underscores: VICIdial drops all else from a name"
            )
        return str(value)

    @override
    def secrets(self) -> Iterator[str]:
        """Yield the password, and that of the address."""
        yield from super().secrets()
        yield from passwords(self.url)

    @override
    def words(self) -> Iterator[str]:
        """Yield the user and the query of the address."""
        yield from (*users(self.url), *query_values(self.url))

    def reread(self) -> Self:
        """Return these settings with the password as its file holds it now.

        Raises `ValueError` if the file can't be read, or holds no password.
        """
        if self.password_file is None:
            return self
        return self.model_copy(update={"password": visible(SecretStr(read_secret(self.password_file)))})


class SinkNames(_Section):
    """The part of the sink's settings that names things on the broker."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    kind: Literal["webhook", "queue", "crm"] = Field(
        "webhook",
        description="`webhook`: POST each payload; `queue`: publish it to the outbound exchange; `crm`: write"
        " records into a CRM, as a preset says.",
    )
    exchange: Exchange | None = Field(
        None, description="For `queue`: the outbound exchange; unset: `<namespace>.enriched`."
    )

    @field_validator("exchange", mode="before")
    @classmethod
    def _nothing_is_unset(cls, value: object) -> object:
        return None if value == "" else value


class CrmSettings(_Section):
    """A CRM, as its preset describes it. Further names below `sink.crm` are the preset's own settings."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    preset: str | None = Field(
        None, description="The preset's name (`crm-sync crm list`), or the path of an own one."
    )
    tables: Table = Field(
        {},
        description="Rows for the preset's tables, by table and row; they take precedence over the preset's.",
    )
    fields: Table = Field(
        {},
        description="Fields of the record that the preset lacks or fills otherwise: by the path in the"
        " record's body, such as `properties.campaign`, the value or expression; null removes a field.",
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_secret(cls, data: Any) -> Any:  # noqa: ANN401 - whatever was given
        """Treat each setting of the preset as a secret, until the preset is known."""
        if not isinstance(data, dict):
            return data
        if twice := [name for name in data if f"{name}_file" in data]:
            raise ValueError(f"{twice[0]} is given twice, directly and by {twice[0]}_file; keep one of them")
        return {
            name: SecretStr(value)
            if isinstance(value, str) and name not in cls.model_fields and not name.endswith("_file")
            else value
            for name, value in data.items()
        }

    @property
    def own(self) -> dict[str, Any]:
        """The preset's own settings that are given, by name; a secret's file by the name with `_file`."""
        return dict(self.model_extra or {})

    def reread(self) -> dict[str, str]:
        """Return the secrets that stand in files as the files hold them now, by name.

        Raises `ValueError` if a file can't be read, or holds no secret.
        """
        files = {name: str(path) for name, path in self.own.items() if name.endswith("_file")}
        return {
            name.removesuffix("_file"): visible(SecretStr(read_secret(Path(path)))).get_secret_value()
            for name, path in files.items()
        }


class SinkSettings(SinkNames):
    """Where payloads go."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url_file: SecretFile = Field(None, description="A file that holds the webhook's address.")
    url: Annotated[SecretStr | None, secret_or_file(None)] = Field(
        default=None, validate_default=True, description="For `webhook`: the CRM's address."
    )
    signing_secret_file: SecretFile = Field(None, description="A file that holds the signing secret.")
    signing_secret: Annotated[SecretStr | None, secret_or_file(None)] = Field(
        default=None,
        validate_default=True,
        description="For `webhook`: the Standard Webhooks secret, `whsec_…`; unset: not signed.",
    )
    timeout: RequestTimeout = Field(
        timedelta(seconds=15), description="The timeout of one delivery; for `crm`, of one request."
    )
    crm: CrmSettings = Field(default={}, validate_default=True)

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and value.get_secret_value():
            example = "https://crm.example/hooks/calls"
            return SecretStr(checked_url(value.get_secret_value(), ("http", "https"), example))
        if info.data.get("kind") not in {
            "queue",
            "crm",
        }:  # nor if it is misspelt: both are then named at once
            raise required("the CRM's address, unless sink.kind is queue or crm")
        return None

    @field_validator("signing_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            key_of(value)
        return value

    @override
    def secrets(self) -> Iterator[str]:
        """Yield the signing secret, and the address with its password."""
        yield from super().secrets()
        if self.signing_secret is not None:
            yield self.signing_secret.get_secret_value().removeprefix(SECRET_PREFIX)
        if self.url is not None:
            yield from passwords(self.url.get_secret_value())
        yield from self.crm.secrets()

    @override
    def words(self) -> Iterator[str]:
        """Yield the user, the query and the long parts of the path of the address."""
        if self.url is not None:
            url = self.url.get_secret_value()
            yield from (*users(url), *path_segments(url), *query_values(url))


class RetrySettings(_Section):
    """The delays of retries, and how many there are."""

    delays: Delays = Field(
        (
            timedelta(seconds=5),
            timedelta(seconds=30),
            timedelta(minutes=2),
            timedelta(minutes=10),
            timedelta(hours=1),
        ),
        description="The delay of each tier; the last one repeats.",
    )
    max_attempts: int = Field(
        12, ge=1, le=1000, description="Attempts before an event becomes a dead letter."
    )


class CircuitBreakerSettings(_Section):
    """Waits for a dependency that is down."""

    probe_max: Duration = Field(
        timedelta(seconds=30), description="The longest wait between probes of a dependency that is down."
    )
    refused_probe: Duration = Field(
        timedelta(minutes=5), description="The wait after refused credentials or permissions."
    )


class IntakeSettings(_Section):
    """The intake, which takes events over HTTP: only `crm-sync intake` and `crm-sync check` read this."""

    host: Host = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8085, ge=0, le=65535, description="The port; 0: any free one, logged.")
    token_files: Paths = Field(
        (),
        description="Files with a token each: who knows one may report events. Read again when they change.",
    )
    spool: Folder = Field(
        Path("/var/lib/crm-sync/intake"),
        description="The folder of the events that the broker has not confirmed. One intake has it.",
    )
    spool_size: int = Field(
        256, ge=1, le=1_000_000, description="The most that the spool may hold, in MiB; then 503."
    )
    rate: int = Field(200, ge=1, le=1_000_000, description="Requests a second from one address; then 429.")
    tls_certificate: Path | None = Field(
        None,
        description="The certificate with its chain, in PEM; unset: plain HTTP. Read again when it changes.",
    )
    tls_key: Path | None = Field(None, description="The certificate's key, in PEM.")


class HttpSettings(_Section):
    """The health and metrics server."""

    host: Host = Field("0.0.0.0", description="The address to listen on.")  # noqa: S104 - probes come from outside
    port: int = Field(8080, ge=0, le=65535, description="The port; 0: any free one, logged.")


class LogSettings(_Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged."
    )
    format: Literal["json", "console"] = Field("json", description="`json`, or `console` for people.")
    mask_phone_numbers: bool = Field(default=True, description="Show only a phone number's last two digits.")


class BrokerCommandSettings(BaseModel):
    """What the commands that only talk to the broker need; the rest of the tree is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    broker: BrokerSettings = Field(default={}, validate_default=True)
    sink: SinkNames = Field(default={}, validate_default=True)
    retry: RetrySettings = Field(default={}, validate_default=True)
    log: LogSettings = Field(default={}, validate_default=True)
    vicidial: DialerWaits = Field(default={}, validate_default=True)

    def secrets(self) -> list[str]:
        """Return every secret that must not be logged, with the parts of addresses that are secret.

        The namespace and words of our own are none, if they only stand in the path of an address or so:
        without them no line of the log could be read.
        """
        sections = [value for _, value in self if isinstance(value, _Section)]
        found = {secret for section in sections for secret in section.secrets()}
        words = {word for section in sections for word in section.words()}
        return sorted((found | words - {self.broker.namespace, *_OWN_WORDS}) - {""})


class _OwnIntakeSettings(IntakeSettings):
    """The intake's settings as the intake itself needs them."""

    token_files: Paths = Field((), validate_default=True)

    @field_validator("token_files")
    @classmethod
    def _check_tokens(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if not value:
            raise required("one file at least that holds a token")
        return value

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("set both tls_certificate and tls_key, or none of them")
        return self


class IntakeCommandSettings(BrokerCommandSettings):
    """What `crm-sync intake` needs."""

    intake: _OwnIntakeSettings = Field(default={}, validate_default=True)


class Settings(BrokerCommandSettings):
    """All settings of the worker."""

    model_config = ConfigDict(extra="forbid")

    vicidial: VicidialSettings = Field(default={}, validate_default=True)
    sink: SinkSettings = Field(default={}, validate_default=True)
    circuit_breakers: CircuitBreakerSettings = Field(default={}, validate_default=True)
    http: HttpSettings = Field(default={}, validate_default=True)
    intake: IntakeSettings = Field(default={}, validate_default=True)
    max_in_flight: int = Field(64, ge=1, le=10_000, description="Events in work at one time.")
    drain: Duration = Field(
        timedelta(seconds=20), description="How long a stop waits for the events in work."
    )
    duplicates_window: int = Field(
        0,
        ge=0,
        le=LARGEST_WINDOW,
        description="How many of the last delivered events are remembered, to drop repeats; 0: none.",
    )

    @field_validator("drain")
    @classmethod
    def _check_drain(cls, value: timedelta) -> timedelta:
        if value > LONGEST_DRAIN:
            raise ValueError("must be at most 25m, as RabbitMQ gives up on a consumer after 30")
        return value


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk the tree's settings: each one's path, such as `broker.url`, and its field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field
