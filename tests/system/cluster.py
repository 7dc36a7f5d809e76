"""A cluster of three private RabbitMQ nodes on loopback, each of which a test may end, freeze and restart."""

import asyncio
import json
import os
import secrets
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from typing_extensions import override

from simulators.broker_node import READY_WITHIN, BrokerError, PrivateBroker
from tests.system.harness import eventually

SETTLED_WITHIN = 90.0
"""Seconds until all nodes run and each queue has all its members again; on an idle machine it is a few."""
NOTICES_SOON = "[{kernel, [{net_ticktime, 4}]}, {aten, [{poll_interval, 1000}]}]."
"""The `advanced.config` that docs/deploy.md recommends and k8s/rabbitmq has.

`net_ticktime` is how many seconds, give or take a quarter, the other nodes wait for one that hangs; with
Erlang's own 60, no queue can be bound for over a minute. `poll_interval` is how many milliseconds pass
between two looks at the nodes of leaders, and then until an election; RabbitMQ's own are 5000.
"""


IN_HAND_COMES_BACK_SOON = json.dumps({"consumer-disconnected-timeout": 10_000})
"""The policy for the work queues that k8s/rabbitmq has for RabbitMQ 4.3 and later; older ones refuse it."""


class ClusterNode(PrivateBroker):
    """A node that joins the first one, and uses its port mapper and its cookie."""

    def __init__(self, binary: Path, cookie: str, first: "ClusterNode | None" = None) -> None:
        """Prepare a node; `open` starts it."""
        super().__init__(binary)
        self._cookie = cookie
        self._first = first

    @property
    def epmd_port(self) -> int:
        """Where the port mapper listens."""
        return self._epmd_port

    async def open(self) -> None:
        """Start it, and return once an AMQP client can connect."""
        await self._open(READY_WITHIN)

    def freeze(self) -> None:
        """Let the node hang until it is killed: its connections stay open, and nothing answers."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    async def lead(self, namespace: str) -> None:
        """Make this node the leader of every quorum queue of a namespace."""
        await self.ctl("eval", _TRANSFER % {"namespace": namespace, "node": self.node})

    async def is_critical(self) -> bool:
        """Return whether a queue would lose its majority if this node ended now."""
        asked = "length(rabbit_quorum_queue:list_with_minimum_quorum())."
        return (await self.ctl("eval", asked)).strip() != "0"

    @override
    async def _start_epmd(self, within: float) -> None:
        if self._first is None:
            await super()._start_epmd(within)
        else:
            self._epmd_port = self._first.epmd_port

    @override
    def _write_files(self) -> None:
        super()._write_files()
        cookie = self.folder / "home" / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        nodes = [self.node] if self._first is None else [self._first.node, self.node]
        with (self.folder / "rabbitmq.conf").open("a") as file:
            file.write("cluster_partition_handling = pause_minority\n")
            for number, node in enumerate(nodes, 1):
                file.write(f"cluster_formation.classic_config.nodes.{number} = {node}\n")
        (self.folder / "advanced").write_text(NOTICES_SOON)


_TRANSFER = """
    [rabbit_quorum_queue:transfer_leadership(Q, '%(node)s')
     || Q <- rabbit_amqqueue:list(),
        string:prefix(element(4, amqqueue:get_name(Q)), <<"%(namespace)s.">>) =/= nomatch].
"""


class Cluster:
    """Three nodes that are one cluster."""

    def __init__(self, nodes: Sequence[ClusterNode]) -> None:
        """Use nodes that `start` makes."""
        self.nodes = nodes

    @classmethod
    async def start(cls, binary: str | Path) -> Self:
        """Start the nodes; on any failure nothing is left behind."""
        cookie = secrets.token_hex(16)
        first = ClusterNode(Path(binary), cookie)
        cluster = cls([first, *(ClusterNode(Path(binary), cookie, first) for _ in range(2))])
        try:
            await first.open()
            await asyncio.gather(*(node.open() for node in cluster.nodes[1:]))
            with suppress(BrokerError):
                queues = ("--apply-to", "queues", "work", r"\.(call-ended|agent-onboarded)$")
                await first.ctl("set_policy", *queues, IN_HAND_COMES_BACK_SOON)
        except BaseException:
            await asyncio.shield(cluster.stop())
            raise
        return cluster

    async def stop(self) -> None:
        """End the nodes, the one with the port mapper last."""
        for node in reversed(self.nodes):
            await node.stop()

    @property
    def urls(self) -> str:
        """The addresses of the nodes, as `broker.url` takes them."""
        return ",".join(node.url for node in self.nodes)

    def node_at(self, address: str) -> ClusterNode:
        """Return the node that listens at such a host and port."""
        return next(node for node in self.nodes if address.endswith(f":{node.port}"))

    def others(self, *these: ClusterNode) -> list[ClusterNode]:
        """Return the other nodes."""
        return [node for node in self.nodes if node not in these]

    async def settled(self) -> None:
        """Wait until no node may not be missed."""

        async def is_settled() -> bool:
            return not any(await asyncio.gather(*(node.is_critical() for node in self.nodes)))

        await eventually(is_settled, SETTLED_WITHIN)
