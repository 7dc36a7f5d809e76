"""`crm-sync crm prepare`: make in a CRM what a preset needs there, such as a field for the call's id."""

import sys
from typing import Annotated

import typer

from worker.commands.broker import talk_to_broker
from worker.commands.common import load_settings_or_exit, stop_with, to_json
from worker.commands.options import ConfigOption
from worker.commands.terminal import say
from worker.core.errors import DeliveryRejected, DeliveryUnavailable, MappingFailed
from worker.core.scrub import printable
from worker.crm.plan import CompiledStep
from worker.crm.session import CrmSession, open_crm
from worker.crm.steps import Engine
from worker.settings import Settings


def prepare(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make in the CRM what the preset needs there, after showing it and asking.

    What is there already stays as it is, so it may be run again. Often it
    needs more rights than the worker: run it once with a key that may change
    the CRM's fields. crm-sync check then says whether all is there.

    Example: crm-sync crm prepare --config crm-sync.yaml
    """
    settings = load_settings_or_exit(config)
    if settings.sink.kind != "crm":
        stop_with(f"sink.kind is {settings.sink.kind}, so there is no CRM to prepare", status=2)
    if not yes and not sys.stdin.isatty():
        stop_with("can't ask for confirmation, because standard input is not a terminal; use --yes", status=2)
    talk_to_broker(settings, lambda _stop: _prepare(settings, yes=yes))


async def _prepare(settings: Settings, *, yes: bool) -> None:
    async with open_crm(settings) as crm:
        steps = crm.plan.prepare
        if not steps:
            say(f"{crm.plan.title}: the API can prepare nothing; `crm-sync check` says what is missing")
            return
        try:
            engine = await crm.engine()
        except DeliveryUnavailable as error:
            stop_with(f"{crm.plan.title}: {error}")
        for step in steps:
            _show(crm, engine, step)
        if not yes and not typer.confirm(f"Make this in {crm.plan.title}?", err=True):
            stop_with("nothing was made")
        for step in steps:
            await _do(crm, engine, step)


def _show(crm: CrmSession, engine: Engine, step: CompiledStep) -> None:
    try:
        request = engine.request(step)
    except MappingFailed:
        say(f"{step.name}: as the steps before it give")
        return
    content = request.body if request.form is None else request.form
    body = "" if content is None else f" {to_json(content)}"
    say(printable(crm.scrub(f"{step.name}: {request.method} {request.url}{body}")))


async def _do(crm: CrmSession, engine: Engine, step: CompiledStep) -> None:
    try:
        results = await crm.do(engine, step)
    except (DeliveryUnavailable, DeliveryRejected, MappingFailed) as error:
        stop_with(f"{step.name}: {error}", "what is above was made; correct this, and run it again")
    if step.name in engine.skipped:
        say(f"{step.name}: not needed")
    else:
        say(f"{step.name}: {'is there already' if results.get('duplicate') else 'made'}")
