"""The dialer and the webhook that answer at once: nginx if it is installed, else the simulators.

A simulator in Python takes longer for an answer than the consumer that is measured, and shares its machine.
nginx answers in less than 0.1 ms: one answer for each of the dialer's functions, and the webhook's 204.
To wait before it answers, it needs the `echo` module, which Debian's `nginx-light` brings.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.processes import PYTHON, process
from simulators.broker_node import free_ports

IN_FLIGHT = 64
_BEGAN = f"{datetime.now(UTC) - timedelta(minutes=5):%m%d%H%M%S}"[1:]
CALLS = [f"V{_BEGAN}{number:010d}" for number in range(32 * IN_FLIGHT)]
"""More calls than are ever in flight: identical look-ups in flight would share one request."""

_CONFIG = """\
{modules}
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path {folder};
  proxy_temp_path {folder};
  fastcgi_temp_path {folder};
  uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  default_type "text/html; charset=utf-8";
  map $time_iso8601 $now {{ "~^(?<day>.+)T(?<clock>[0-9:]+)" "$day $clock"; }}
  map $msec $epoch {{ "~^(?<whole>[0-9]+)" $whole; }}
  map $arg_function $answer {{
    version "VERSION: 2.14-202|BUILD: 250720-1841|DATE: $now|EPOCH: $epoch|DST: 0|TZ: 0.00|TZNOW: 0.00|\\n";
    callid_info "{call_header}\\n$arg_call_id|120|$now|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000\\n";
    agent_campaigns "{agent_header}\\n$arg_agent_user|SALES1|SALESLINE\\n";
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /vicidial/non_agent_api.php {{ {dialer} }}
    location = /webhook {{ {webhook} }}
    location = /status {{ stub_status; }}
  }}
}}
"""
_CALL_HEADER = "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user"
_AGENT_HEADER = "user|allowed_campaigns_list|allowed_ingroups_list"


@dataclass
class Nginx:
    """One nginx of ours, which counts its requests."""

    port: int
    looks: int = 0

    async def served(self) -> int:
        """Return how many requests it has answered, but for those that ask for this count."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/status") as response,
        ):
            text = await response.text()
        self.looks += 1
        return int(text.splitlines()[2].split()[2]) - self.looks


async def deliveries(webhook: str) -> int:
    """Ask a simulated CRM how many deliveries it has had."""
    address = webhook.replace("/webhook", "/control")
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        return int((await response.json())["deliveries"])


@dataclass(frozen=True, slots=True)
class Stage:
    """Addresses of a broker, a dialer and a webhook, and how to ask how many deliveries there were."""

    broker: str
    dialer: str
    webhook: str
    delivered: Callable[[], Awaitable[int]]
    program: str = "simulators in Python"
    """What answers there."""


def find_nginx(delay: float) -> str | None:
    """Return the path of an nginx that can answer after `delay` seconds."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return found if found is None or not delay or _echo_module(found) else None


def _echo_module(binary: str) -> Path | None:
    said = subprocess.run([binary, "-V"], capture_output=True, text=True, check=True).stderr  # noqa: S603
    places = [word.partition("=")[2] for word in said.split() if word.startswith("--modules-path=")]
    files = [Path(place) / "ngx_http_echo_module.so" for place in places]
    return next((file for file in files if file.exists()), None)


@asynccontextmanager
async def start_nginx(binary: str, delay: float) -> AsyncIterator[Nginx]:
    """Run one nginx in the foreground, with a configuration of its own in a temporary folder."""
    dialer, webhook, modules = "return 200 $answer;", "return 204;", ""
    if delay:
        modules = f"load_module {_echo_module(binary)};"
        dialer, webhook = f"echo_sleep {delay}; echo -n $answer;", f"echo_sleep {delay}; echo -n;"
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nginx.conf"
        headers = {"call_header": _CALL_HEADER, "agent_header": _AGENT_HEADER}
        text = _CONFIG.format(
            modules=modules, folder=folder, port=port, dialer=dialer, webhook=webhook, **headers
        )
        file.write_text(text, encoding="utf-8")
        command = (binary, "-e", "stderr", "-p", folder, "-c", str(file))
        async with process(*command, env={**os.environ, "TZ": "UTC"}, port=port):
            yield Nginx(port)


def _end_at_sigterm() -> None:
    """Have SIGTERM end the present task, so that all processes are ended, too: nginx stays otherwise."""
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@asynccontextmanager
async def stage(broker: str, delay: float = 0, *, controlled: bool = False) -> AsyncIterator[Stage]:
    """Start a dialer and a webhook that answer after `delay` seconds; `controlled`: the simulators."""
    binary = None if controlled else find_nginx(delay)
    _end_at_sigterm()
    async with AsyncExitStack() as stack:
        if binary is not None:
            dialer, crm = [await stack.enter_async_context(start_nginx(binary, delay)) for _ in range(2)]
            address = f"http://127.0.0.1:{dialer.port}/vicidial/non_agent_api.php"
            yield Stage(broker, address, f"http://127.0.0.1:{crm.port}/webhook", crm.served, "nginx")
            return
        urls = []
        for name in ("dialer", "crm"):
            command = [PYTHON, "-m", f"simulators.{name}", "--count-only", "--delay", str(delay)]
            if name == "dialer":
                command += ["--config", json.dumps({"calls": {call: {} for call in CALLS}})]
            _, line = await stack.enter_async_context(process(*command))
            urls.append(json.loads(line)["url"])
        yield Stage(broker, urls[0], urls[1], partial(deliveries, urls[1]))
