"""The program `python -m simulators.crms NAME`."""

import argparse
import asyncio
import importlib
import pkgutil
from pathlib import Path

from simulators.crms.base import CRM_FAULTS, CrmStandIn
from simulators.stand_in import program_arguments, serve_until_signal

_ABOUT = f"""\
Stands in for a real CRM on 127.0.0.1: as strict as the vendor, with no account needed.

It prints one JSON line, with the settings by which crm-sync writes into it, and serves until SIGTERM:

    python -m simulators.crms hubspot --port 8601
    {{"url": "http://127.0.0.1:8601", "port": 8601, "settings": {{"preset": "hubspot", ...}}}}

See what it holds and what it was asked:

    curl http://127.0.0.1:8601/report
    curl http://127.0.0.1:8601/records

Let it break, at any time:

    curl -d '{{"fault": "503", "fail_next": 3}}' http://127.0.0.1:8601/control
    curl -d '{{"fault": "lose_answer", "fault_path": "/calls"}}' http://127.0.0.1:8601/control
    curl -d '{{"fault": null}}' http://127.0.0.1:8601/control

Other controls: "delay" and "storm" (seconds; a storm refuses everything as too many requests), "rate",
"search_rate" and "daily" (limits; null is unlimited), "token_life" (seconds), "revoke_tokens" (true),
"locked" (a list of ids of records), "records" (type, then a list of records to add), "forget" (true: drop
the counts).

Faults: {", ".join(CRM_FAULTS)}.
"""


def names() -> list[str]:
    """Return the names of the CRMs; a module with an underscore in its name is a part of one."""
    here = [str(Path(__file__).parent)]
    return sorted(
        each.name for each in pkgutil.iter_modules(here) if each.name != "base" and "_" not in each.name
    )


def stand_in(name: str) -> type[CrmStandIn]:
    """Return the stand-in of this name."""
    found: type[CrmStandIn] = importlib.import_module(f"simulators.crms.{name}").STAND_IN
    return found


def main() -> None:
    """Serve as a program until SIGTERM or SIGINT."""
    parser = program_arguments(_ABOUT)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.prog = "python -m simulators.crms"
    parser.add_argument("crm", choices=names(), help="which CRM")
    chosen = parser.parse_args()
    server = stand_in(chosen.crm)(port=chosen.port, delay=chosen.delay)
    asyncio.run(serve_until_signal(server, chosen.config))


if __name__ == "__main__":
    main()
