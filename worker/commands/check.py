"""`crm-sync check`: would a worker with these settings work from here?"""

import typer

from worker import check as checks
from worker.commands.common import ConfigOption, load_or_exit
from worker.commands.terminal import printable, say, talk_to_broker
from worker.core.scrub import Scrubber
from worker.settings import Settings


def check(config: ConfigOption = None) -> None:
    """Check the settings, then whether broker, dialer and CRM can be reached and let us in.

    Use it before the first start and after every change of settings; it takes
    the same settings as run. One line each, and under a failure what to do
    about it. Nothing is declared or posted; the dialer is asked for its
    version, and with each function for what doesn't exist. Exit status 1 where
    a check fails, 2 for settings that can't be used; a warning (!) fails
    nothing.

    Example: crm-sync check --config crm-sync.yaml
    """
    settings = load_or_exit(Settings, config)
    talk_to_broker(settings, lambda _stop: _report(settings))


async def _report(settings: Settings) -> None:
    scrub = Scrubber(settings.secrets())
    failed = False
    async for finding in checks.run(settings):
        mark, style = (
            ("✗", "red") if not finding.ok else ("!", "yellow") if finding.advice else ("✓", "green")
        )
        say(f"{mark} {finding.name:<9} {printable(scrub(finding.text))}", style)
        for advice in finding.advice:
            say(f"  - {printable(scrub(advice))}")
        failed |= not finding.ok
    if failed:
        raise typer.Exit(1)
