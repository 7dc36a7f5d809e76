"""`crm-sync schema`: what is delivered, as JSON Schema."""

import json
from typing import Annotated

import typer

from worker.core.payload import schemas


def schema(
    kind: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="call.enriched or agent.enriched; unset: both.")
    ] = None,
) -> None:
    """Print the JSON Schema of the payloads that the CRM gets (draft 2020-12).

    Use it to generate the receiver's types, or to validate what arrives. Needs
    no settings.

    Examples:
      crm-sync schema call.enriched > call-enriched.schema.json
      crm-sync schema
    """
    known = schemas()
    if kind is not None and kind not in known:
        raise typer.BadParameter(f"no such payload; known are {' and '.join(known)}", param_hint="TYPE")
    shown = known if kind is None else known[kind]
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
