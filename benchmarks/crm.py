"""How long it takes to build a CRM's requests for one call: `python -m benchmarks.crm`."""

import argparse
from collections.abc import Callable

from benchmarks.parse import microseconds
from worker.commands.event_schemas import payloads
from worker.crm.compiled import variables
from worker.crm.load import compiled
from worker.crm.plan import RECORD
from worker.crm.source import shipped
from worker.settings.tree import CrmSettings

BUDGET = 300
"""Microseconds for the request of HubSpot's record: to build it must not be what a delivery costs."""

_DIALER = "https://dialer.example/vicidial/non_agent_api.php"


def builds(name: str) -> dict[str, Callable[[], object]]:
    """Return what is built for one call: the names of the templates, and the request of the record."""
    preset = compiled(CrmSettings(preset=name), _DIALER, placeholders=True)
    payload = payloads()["call.enriched"]
    names = {**variables(payload, preset), "contact": {"id": "501"}}
    request = next(step.request for step in preset.plan.on_call if step.name == RECORD)
    parts = (request.path, request.query, request.headers, request.body, request.form)

    def record() -> object:
        return [part.render(names) for part in parts if part is not None]

    return {f"{name}, names": lambda: variables(payload, preset), f"{name}, record": record}


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.crm", description=__doc__).parse_args()
    for each in shipped():
        for what, build in builds(each).items():
            print(f"{what:24}{microseconds(build):6.1f} µs    budget: below {BUDGET} µs")
