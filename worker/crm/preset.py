"""What a preset says: one YAML file per CRM, as typed data.

A preset holds *templates*: any YAML value whose texts may hold Jinja2 expressions. A text that is one
expression and nothing else gives that expression's own value; other texts give text. A `null` leaf leaves its
key out.

Names that every template may use: `settings`, `login`, `event_id`, `type`, `timestamp`, `event` (as its
producer sent it), `call`, `agent`, `access_check`, `final`, `found`, `number` (`e164`, `national`, `digits`,
`spellings`), `call_end`, `key` (the call's id), `record_uuid` (a UUIDv5 of the call), and the results of the
steps before, by their names. A template that reads an answer has `status`, `headers` (names in lower case),
`body` (parsed JSON, else null) and `text` as well, and one of a batch's item `result`.
"""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from worker.settings.types import Duration

Template = Any
"""A text, a number, a list or a mapping, with expressions in its texts."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]

_STATUS = re.compile(r"[1-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?")
LONGEST_BATCH_WAIT = timedelta(milliseconds=200)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Means(StrEnum):
    """What an answer means."""

    DONE = "done"
    """The step succeeded. With a `wait`, nothing more is sent for so long."""
    DUPLICATE = "duplicate"
    """The record is there already: go on with the next step."""
    RETRY = "retry"
    """The CRM is in trouble: an outage."""
    BUSY = "busy"
    """It asked us to come back later."""
    QUOTA = "quota"
    """The day's, or another long, allowance is used up."""
    TOKEN = "token"  # noqa: S105 - a meaning
    """The login is no longer valid: log in again, and try once more; then `refused`."""
    REFUSED = "refused"
    """It refuses our login, permission or settings."""
    BAD = "bad"
    """It will never accept this request."""
    PARTIAL = "partial"
    """Of a batch: some items succeeded; each is judged by its own result."""


class Rule(_Part):
    """What an answer means; the first rule that fits decides."""

    status: int | str | tuple[int | str, ...] | None = Field(
        None, description="`429`, `4xx`, `500-504`, or a list of these; unset: any."
    )
    when: Template = Field(None, description="An expression that must be true as well.")
    means: Means
    wait: Template = Field(
        None,
        description="For `busy`, `quota` and `done`: a duration such as `10s`, or an expression in seconds.",
    )
    say: Template = Field(None, description="The CRM's reason, for the log and the dead letter.")
    take: dict[Name, Template] = Field({}, description="For `duplicate`: results that replace the step's.")

    @field_validator("status")
    @classmethod
    def _check_status(cls, value: Any) -> Any:
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and _STATUS.fullmatch(str(each)) is None:
                raise ValueError("must be a status such as 429, 4xx or 500-504, or a list of these")
        return value


class Cache(_Part):
    """Keep a step's results for a while. Steps that name the same cache share it."""

    name: Name | None = Field(None, description="Unset: the step's name.")
    by: Template = Field(description="The key; null: not cached.")
    found: Duration = Field(description="How long results are kept.")
    missing: Duration = Field(description="How long it is remembered that all results were null.")


class Learn(_Part):
    """Add a row to a table, in memory, if key and value are there. Rows of the settings win."""

    table: Name
    key: Template
    value: Template


class Batch(_Part):
    """Send the items of several events in one request.

    The step's `body` is the whole body; the list at `at` in it holds the one item of this event as it is
    written there, and those of the others are appended.
    """

    max: int = Field(ge=1, le=1000)
    wait: Duration = Field(description="The longest wait for others, at most 200ms.")
    at: str = Field(
        "", description="The dotted path of the list of items in `body`; empty: the body is the list."
    )
    results: Template = Field(description="The list of results in the answer.")
    errors: Template = Field(None, description="A second list of results, of items that failed.")
    match: Template = Field(None, description="The `key` that a `result` belongs to; unset: by order.")
    each: tuple[Rule, ...] = Field((), description="What the `result` of one item means; else `done`.")

    @field_validator("wait")
    @classmethod
    def _check_wait(cls, value: timedelta) -> timedelta:
        if value > LONGEST_BATCH_WAIT:
            raise ValueError("must be at most 200ms, which each delivery may wait")
        return value


class Request(_Part):
    """One HTTP request as templates. Exactly one of the methods is set, to the path."""

    get: Template = None
    post: Template = None
    put: Template = None
    patch: Template = None
    delete: Template = None
    query: dict[str, Template] = {}
    headers: dict[str, Template] = {}
    body: Template = Field(None, description="Sent as JSON.")
    form: dict[str, Template] | None = Field(None, description="Sent as a form; mappings in it as JSON.")
    answers: tuple[Rule, ...] = ()

    METHODS: ClassVar[tuple[str, ...]] = ("get", "post", "put", "patch", "delete")

    @property
    def method(self) -> str:
        """The method, in upper case."""
        return next(name for name in self.METHODS if getattr(self, name) is not None).upper()

    @property
    def path(self) -> Template:
        """The path, or a whole address in a login."""
        return getattr(self, self.method.lower())

    @model_validator(mode="after")
    def _check_one_method(self) -> Self:
        if sum(getattr(self, name) is not None for name in self.METHODS) != 1:
            raise ValueError(f"must have exactly one of {', '.join(self.METHODS)}")
        if self.body is not None and self.form is not None:
            raise ValueError("must have `body` or `form`, not both")
        return self


class Repeat(StrEnum):
    """What makes a repeat of the step `record` harmless."""

    OWN_ID = "own_id"
    UPSERT = "upsert"
    UNIQUE = "unique"
    SEARCH = "search"
    """A step `known` looks for the record before."""


class Step(Request):
    """One request of a delivery. The results of `take` are available to later steps by the step's name.

    Besides them, `<step>.duplicate` is true after an answer that means `duplicate`.
    """

    step: Name
    body_of: Name | None = Field(
        None,
        description="An earlier step; its body, with all the `fields` of the settings, is sent here too.",
    )
    when: Template = Field(None, description="If this is not true, the step is left out.")
    soft: bool = Field(default=False, description="If it fails, go on without it.")
    of: Name | None = Field(None, description="The group of `limits` that it counts against, too.")
    cache: Cache | None = None
    repeat: Repeat | None = Field(None, description="For the step `record`.")
    batch: Batch | None = None
    take: dict[Name, Template] = {}
    learn: Learn | None = None


class Limit(_Part):
    """At most `rate` requests in any `per`, and `concurrent` at one time."""

    rate: int | None = Field(None, ge=1)
    per: Duration | None = None
    concurrent: int | None = Field(None, ge=1)
    of: Name | None = Field(None, description="Only for the steps of this group.")


class Login(_Part):
    """How a login is made, once for all requests. Its results are the name `login`."""

    steps: tuple[Step, ...] = Field(min_length=1)
    take: dict[Name, Template] = Field(
        min_length=1, description="From the results of its steps, by their names."
    )
    lifetime: Template = Field("1h", description="A duration, or an expression in seconds.")
    url: Template = Field(None, description="The address of the API, if the login names it.")
    hosts: tuple[str, ...] = Field((), description="Suffixes, one of which the host of `url` must end with.")


class Check(Request):
    """A request by which `crm-sync check` looks whether all is prepared."""

    check: str = Field(description="What is looked at, in a few words.")
    expect: Template = Field(default=True, description="Must be true of the answer.")
    otherwise: str = Field(description="What the operator has to do.")


class SettingDeclaration(_Part):
    """One setting of a preset."""

    about: str
    type: Literal["text", "number", "boolean", "table", "list", "address", "zone", "country"] = Field(
        "text", description="`address`: https://…; `zone`: an IANA time zone; `country`: two letters."
    )
    secret: bool = False
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()


class Preset(_Part):
    """One CRM: settings, login, limits, steps, rules, checks."""

    crm: Name
    title: str
    about: str = Field(description="What it writes, what it needs, and what is not confirmed.")
    extends: str | None = None
    settings: dict[Name, SettingDeclaration]
    url: Template = Field(description="The base address; paths are appended to it.")
    headers: dict[str, Template] = {}
    login: Login | None = None
    limits: tuple[Limit, ...] = ()
    tables: dict[Name, dict[str, Any]] = Field({}, description="`*` is the row for any other value.")
    skip_when: Template = Field(None, description="A call of which this is true is not written.")
    on_call: tuple[Step, ...]
    on_agent: tuple[Step, ...] = ()
    receipt: dict[Name, Template] = Field(
        description="`id` (the record's), `new` (true, false or null), `linked` (the contact's id or null)."
    )
    agent_receipt: dict[Name, Template] = {}
    answers: tuple[Rule, ...] = ()
    check: tuple[Check, ...] = ()
    prepare: tuple[Step, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _copy_bodies(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        lists = ("on_call", "on_agent", "prepare")
        return data | {name: _with_bodies(data[name]) for name in lists if isinstance(data.get(name), list)}


def _with_bodies(steps: list[Any]) -> list[Any]:
    """Return steps as written, each `body_of` followed."""
    bodies: dict[Any, Any] = {}
    copied: list[Any] = []
    for step in steps:
        changed = step
        if isinstance(step, dict):
            if (source := step.get("body_of")) is not None:
                if source not in bodies:
                    raise ValueError(
                        f"step {step.get('step')}: body_of must name an earlier step with a body"
                    )
                changed = step | {"body": bodies[source]}
            if changed.get("body") is not None:
                bodies[changed.get("step")] = changed["body"]
        copied.append(changed)
    return copied
