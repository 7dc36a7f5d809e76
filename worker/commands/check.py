"""`crm-sync check`: would a worker with these settings work from here?"""

from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from worker import check as checks
from worker.check import Finding, Level
from worker.commands.broker import talk_to_broker
from worker.commands.common import load_settings, load_settings_or_exit, to_json
from worker.commands.options import ConfigOption
from worker.commands.terminal import out, say, show_table
from worker.core.scrub import Scrubber, printable
from worker.settings import Settings, SettingsError
from worker.settings.load import sources
from worker.settings.show import DEFAULT, InForce, in_force

_LOOKS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.FAILED: ("✗", "red")}
_LEVEL_WIDTH = max(map(len, Level))
_NAME_WIDTH = len("permissions")


def check(
    ping: Annotated[
        bool,
        typer.Option(
            "--ping",
            help='Post a signed {"type": "ping"} to the webhook. Not to a CRM that might treat it as a call.',
        ),
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Show every setting too, and where it comes from.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON document, settings included.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Check everything a worker needs, and say what to do about each failure.

    Use it before the first start, after every change of settings, and first
    when something is wrong; it takes the same settings as run. One line each
    for settings; broker, permissions, topology, alarms; dialer, clock; sink,
    tls, ping or crm; intake. What can't be tried is left out. Nothing is
    changed: nothing is declared, what is published goes to no queue, and the
    dialer is asked for what doesn't exist. Secrets are masked.

    Exit status 0, also with a warning (!); 1 if something failed; 2 for
    settings that can't be used.

    Examples:
      crm-sync check --config crm-sync.yaml
      crm-sync check --ping --settings
      crm-sync check --json | jq -r .worst
    """
    chosen = _load_for_json(config) if as_json else load_settings_or_exit(config)
    scrub = Scrubber(chosen.secrets())
    findings = talk_to_broker(chosen, lambda _stop: _find(chosen, scrub, ping=ping, quiet=as_json))
    shown = list(in_force(chosen, sources(config))) if settings or as_json else []
    if as_json:
        _write(findings, shown)
    else:
        _sum_up(findings)
        show_settings(shown)
    if checks.worst(findings) is Level.FAILED:
        raise typer.Exit(1)


def _load_for_json(config: Path | None) -> Settings:
    """Load the settings; every problem is the advice of the only finding, and the exit status 2."""
    try:
        return load_settings(config)
    except SettingsError as error:
        count = len(error.problems)
        text = "a setting is wrong" if count == 1 else f"{count} settings are wrong"
        _write([Finding.of("settings", text, problems=error.problems)], [])
        raise typer.Exit(2) from None


def _write(findings: Sequence[Finding], settings: Sequence[InForce]) -> None:
    document = {
        "worst": checks.worst(findings),
        "findings": [asdict(finding) for finding in findings],
        "settings": [asdict(each) for each in settings],
    }
    typer.echo(to_json(document, indent=2))


async def _find(settings: Settings, scrub: Scrubber, *, ping: bool, quiet: bool) -> list[Finding]:
    """Check, and show each finding as soon as it is there; without any secret that somebody else repeats."""
    found = []
    async for raw in checks.run(settings, ping=ping):
        finding = Finding(raw.name, raw.level, scrub(raw.text), tuple(map(scrub, raw.advice)))
        found.append(finding)
        if not quiet:
            show(finding)
    return found


def show(finding: Finding) -> None:
    """Show one finding: its level, its name, and the text with what to do below it."""
    mark, style = _LOOKS[finding.level]
    head = f"{mark} {finding.level:<{_LEVEL_WIDTH}}  {finding.name:<{_NAME_WIDTH}}  "
    text, advice = printable(finding.text), [f"- {printable(each)}" for each in finding.advice]
    if not out.is_terminal:
        for line in (head + text, *(" " * len(head) + each for each in advice)):
            say(line)
        return
    table = Table.grid()
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(head, text)
    for each in advice:
        table.add_row("", each)
    out.print(table, markup=False)


def _sum_up(findings: Sequence[Finding]) -> None:
    levels = [finding.level for finding in findings]
    failed, warnings = levels.count(Level.FAILED), levels.count(Level.WARNING)
    counts = [f"{failed} failed"] if failed else []
    counts += [f"{warnings} warning{'s' if warnings > 1 else ''}"] if warnings else []
    say()
    say(", ".join(counts) if counts else "all is well", _LOOKS[checks.worst(findings)][1])


def show_settings(settings: Sequence[InForce]) -> None:
    """Show the settings: in a terminal a line each, those that are not given dimmed; else with tabs."""
    if not settings:
        return
    say()
    if not out.is_terminal:
        show_table(("SETTING", "VALUE", "SOURCE"), [astuple(each) for each in settings])
        return
    width = max(len(each.name) for each in settings)
    for each in settings:
        line = f"{each.name:<{width}}  {each.value}  ({each.source})"
        say(printable(line), "dim" if each.source == DEFAULT else None)
