"""Three RabbitMQ nodes of their own for a test, from Debian's package; skips where there is none.

They run on tools/deploy's configuration and on the definitions that `chargekeep rabbitmq` writes,
in a temporary folder, on free ports of loopback, with an epmd that ends with them.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from chargekeep_tools.broker import OPERATOR, RECONCILER, free_port
from chargekeep_tools.rabbitmq import definitions

_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_DEPLOY = Path(__file__).parents[1] / "tools" / "deploy" / "rabbitmq"
_START_S = 180
# One thread each, which sleeps when it has nothing to do: the machine is shared.
_ERLANG = "+S 1:1 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none"


class Node:
    """One RabbitMQ server process and its folder."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.name = f"chargekeep{number}@localhost"
        self.folder = cluster.folder / str(number)
        self.amqp, self.amqps, self.mqtt, self.mqtts = (free_port() for _ in range(4))
        self.distribution = free_port()
        self.process = None
        (self.folder / "conf.d").mkdir(parents=True)

    def write(self, names, access=None, more=""):
        """Its configuration. access: folder that `chargekeep rabbitmq` filled, to listen with
        TLS as well; more: lines that change what is deployed."""
        conf = self.folder / "conf.d"
        shutil.copy(_DEPLOY / "10-cluster.conf", conf)
        (conf / "plugins").write_text("[rabbitmq_mqtt].\n")  # in one folder, as deployed
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp}",
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.mqtt}",
            "cluster_formation.peer_discovery_backend = classic_config",
            *(f"cluster_formation.classic_config.nodes.{i} = {n}" for i, n in enumerate(names, 1)),
        ]
        if access is not None:
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.amqps}",
                f"mqtt.listeners.ssl.1 = 127.0.0.1:{self.mqtts}",
                *(
                    line.replace("/etc/chargekeep/access", str(access))
                    for line in (_DEPLOY / "20-nodes.conf").read_text().splitlines()
                    if line.startswith("ssl_options.")
                ),
            ]
        (conf / "90-node.conf").write_text("\n".join([*lines, more, ""]))

    @property
    def environment(self):
        return {
            "HOME": str(self.cluster.folder),
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.cluster.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "conf.d" / "plugins"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d" / "*.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def start(self):
        with (self.folder / "output").open("ab") as log:
            self.process = subprocess.Popen(
                [_PROGRAMS / "rabbitmq-server"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self):
        """As a power cut of this node's machine."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def ctl(self, *words):
        """What rabbitmqctl says; CalledProcessError where it fails."""
        return subprocess.run(
            [_PROGRAMS / "rabbitmqctl", "-q", *words],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=_START_S,
        ).stdout

    def wait(self):
        """Until it serves."""
        give_up = time.monotonic() + _START_S
        while True:
            try:
                self.ctl("await_startup", "--timeout", "60")
                return
            except subprocess.CalledProcessError:  # it may not have a name yet
                output = (self.folder / "output").read_text()[-3000:]
                assert self.process.poll() is None and time.monotonic() < give_up, output


class Cluster:
    """The nodes, and the accounts of the host."""

    def __init__(self, size=3):
        pytest.importorskip("pika")
        if not (_PROGRAMS / "rabbitmq-server").exists() or os.geteuid() != 0:
            pytest.skip("needs root and apt-get install rabbitmq-server")
        self.folder = Path(tempfile.mkdtemp(prefix="chargekeep-rabbit-"))
        self.accounts = {RECONCILER: "r", OPERATOR: "o"}
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text("chargekeep")
        cookie.chmod(0o400)
        self.epmd_port = free_port()
        self.nodes = [Node(self, number) for number in range(1, size + 1)]
        for node in self.nodes:
            node.write([n.name for n in self.nodes])
        self.epmd = None

    def start(self):
        self.epmd = subprocess.Popen(
            ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in self.nodes:  # one by one: the quorum of MQTT's client ids wants to grow
            node.start()
            node.wait()
        self.nodes[0].ctl("await_online_nodes", str(len(self.nodes)))

    def admit(self, stations):
        """Accounts for records of a home."""
        path = self.folder / "definitions.json"
        path.write_text(json.dumps(definitions(stations, self.accounts)))
        self.nodes[0].ctl("import_definitions", str(path))

    def stop(self):
        for node in self.nodes:
            node.kill()
        if self.epmd is not None:
            self.epmd.kill()
            self.epmd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, user):
        hosts = ",".join(f"127.0.0.1:{node.amqp}" for node in self.nodes)
        return f"amqp://{user}:{self.accounts[user]}@{hosts}"

    def mqtt_url(self, user, node=0):
        return f"mqtt://{user}:{self.accounts[user]}@127.0.0.1:{self.nodes[node].mqtt}"

    @property
    def addresses(self):
        return [("127.0.0.1", node.mqtt) for node in self.nodes]

    def queues(self):
        """(name, leader, members online, messages) of every queue of ledgers."""
        alive = next(node for node in self.nodes if node.process.poll() is None)
        columns = ("name", "type", "leader", "online", "messages")
        found = json.loads(alive.ctl("list_queues", "--formatter", "json", *columns))
        return [queue for queue in found if queue["type"] == "quorum"]
