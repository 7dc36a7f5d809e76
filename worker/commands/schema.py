"""`crm-sync schema`: what is delivered, as JSON Schema; all that comes in and goes out, as AsyncAPI."""

import json
from typing import Annotated

import typer

from worker.commands.asyncapi import asyncapi
from worker.commands.common import load_or_exit, to_yaml
from worker.commands.options import ConfigOption
from worker.core.payload import schemas
from worker.settings import BrokerCommandSettings


def schema(
    kind: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="call.enriched or agent.enriched; unset: both.")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--asyncapi", help="Everything that comes in and goes out, as an AsyncAPI 3 document (YAML)."
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Print the JSON Schema of the payloads that the CRM gets (draft 2020-12).

    Use it to generate the receiver's types, or to validate what arrives. Needs
    no settings.

    With --asyncapi, print events, payloads, dead letters and the webhook, with
    their headers and examples, and what they stand on at the broker: the names
    are those that the settings give.

    Examples:
      crm-sync schema call.enriched > call-enriched.schema.json
      crm-sync schema
      crm-sync schema --asyncapi > asyncapi.yaml
    """
    if whole:
        if kind is not None:
            raise typer.BadParameter("describes every type; leave TYPE out", param_hint="--asyncapi")
        typer.echo(to_yaml(asyncapi(load_or_exit(BrokerCommandSettings, config))), nl=False)
        return
    if config is not None:
        raise typer.BadParameter("changes nothing without --asyncapi", param_hint="--config")
    known = schemas()
    if kind is not None and kind not in known:
        raise typer.BadParameter(f"no such payload; known are {' and '.join(known)}", param_hint="TYPE")
    shown = known if kind is None else known[kind]
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
