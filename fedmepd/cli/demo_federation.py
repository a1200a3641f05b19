"""The demo's federation for real: an authority, a coordinator and a site agent per hospital, each a process of its own.

Everything is done with the commands that an operator and a hospital's IT would use, over mutually authenticated TLS on
the loopback interface. Every step can be repeated, so an interrupted demo goes on where it stopped. What the demo does
that no federation would: it has everybody's folders on one disk, and so can put all results into one report.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedmepd.cli.demo_monitoring import Monitoring
from fedmepd.errors import RunError

if TYPE_CHECKING:
    from fedmepd.config import Config

_STOP_S = 15.0
_LOOPBACK = "127.0.0.1"
_ANY_PORT = f'[{{}}]\nlisten = "{_LOOPBACK}:0"\n'
_METHOD = "fedmepd"
_IDENTITY = "FEDMEPD_ADMIN_IDENTITY"
_PASSPHRASE = "FEDMEPD_CONSORTIUM_PASSPHRASE"  # noqa: S105  the name of a variable


class DemoFederation:
    """The processes and folders of the demo's federation.

    Args:
        folder: Where everything is kept.
        config: The demo's configuration: members, cohorts, plan.
        plain: Sum in clear, which every hospital's policy must allow.
        minimum_cohort: Fewest sites in a sum.
        monitoring: Where the files for Prometheus go; the folder itself if None.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        *,
        plain: bool = False,
        minimum_cohort: int = 4,
        monitoring: Path | None = None,
    ) -> None:
        self.folder, self._config = folder.resolve(), config
        self._monitoring = Monitoring((monitoring or folder).resolve())
        self._plain, self._minimum = plain, minimum_cohort
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, str] = {}
        self._run = config.run.name

    # -- steps ------------------------------------------------------------------------------------------------------

    def found(self) -> None:
        """Make the consortium's authority and the coordinator's identity."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.folder / "consortium" / "consortium.toml").is_file():
            self._admin("consortium", "init", str(self.folder / "consortium"), "--name", "demo", authority=True)
        arguments = ["--data", str(self._data), "--consortium-dir", str(self.folder / "consortium")]
        self._call("coordinator.cli", "init", *arguments, "--name", f"localhost,{_LOOPBACK}", authority=True)
        _write(self._configuration, self._coordinator_toml())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the coordinator, and in the end stop whatever is running."""
        try:
            addresses = self._data / "addresses.json"
            addresses.unlink(missing_ok=True)
            self._start("coordinator", "coordinator.cli", "serve", "--config", str(self._configuration))
            self._await_file("coordinator", addresses)
            self._addresses = json.loads(addresses.read_text())
            self._monitoring.write(self._addresses.get("metrics", ""), {})
            yield
        finally:
            self._stop()

    def enrol(self) -> None:
        """Enrol the administrator and the sites, and sign the list of members."""
        if not (self._identity / "tls" / "current").exists():
            printed = self._call("coordinator.cli", "token", "--data", str(self._data), "--role", "admin", "operator")
            token = next(word for word in printed.split() if word.startswith("fedmepd1."))
            places = ["--coordinator", self._members, "--enrolment", self._newcomers]
            self._admin("enroll", "operator", "--token", "-", *places, given=token)
        for site in self._config.sites:
            _write(self._site(site.id) / "agent.toml", self._agent_toml(site.id))
            _write(self._site(site.id) / "policy.toml", self._policy_toml())
            if not (self._site(site.id) / "data" / "identity" / "tls" / "current").exists():
                self._withdraw_tokens(site.id)
                create = ["--role", "site", site.id, "--modalities", ",".join(site.modalities or ()), "--json"]
                token = json.loads(self._admin("tokens", "create", *create))["token"]
                self._agent(site.id, "enroll", "--token", "-", given=token)
        authority = ["--consortium-dir", str(self.folder / "consortium")]
        self._admin("membership", "sign", *authority, "--minimum-cohort", str(self._minimum), "--yes", authority=True)

    def _withdraw_tokens(self, site: str) -> None:
        """Withdraw what an interrupted demo left open."""
        for token in json.loads(self._admin("tokens", "list", "--json")):
            if token["id"] == site and token["state"] == "open":
                self._admin("tokens", "revoke", token["token_id"])

    def train(self) -> None:
        """Start the agents and the run, and watch it until it is over.

        Raises:
            RunError: If the run does not complete.
        """
        for site in self._config.sites:
            config = str(self._site(site.id) / "agent.toml")
            self._start(site.id, "site_agent.cli", "run", "--config", config, "--until-finished")
        runs = json.loads(self._admin("runs", "list", "--json"))
        if not runs or runs[-1]["state"] in ("failed", "aborted"):
            _write(self.folder / "run.toml", self._run_toml())
            self._admin("runs", "start", str(self.folder / "run.toml"))
        told = {site.id: self._await_metrics(site.id) for site in self._config.sites}
        self._monitoring.write(self._addresses.get("metrics", ""), told)
        self._watch()
        last = json.loads(self._admin("runs", "list", "--json"))[-1]
        self._run = str(last["run"])
        if last["state"] != "completed":
            raise RunError(f"the run is {last['state']}: {last['reason']}", remedy=f"see the logs in {self._logs}")
        for site in self._config.sites:
            self._await_end(site.id)
        self._await_file("coordinator", self.results("server") / "methods" / _METHOD / "scores.csv")  # written last

    def results(self, member: str) -> Path:
        """Return the folder of a member's results."""
        if member != "server":
            return self._site(member) / "data" / "results" / self._run
        return self._data / "lead" / self._run / "results"

    def state(self, member: str) -> Path:
        """Return the folder of a member's state."""
        if member != "server":
            return self._site(member) / "data" / "runs" / self._run / "state"
        return self._data / "lead" / self._run / "state"

    # -- files ------------------------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self.folder / "coordinator"

    @property
    def _configuration(self) -> Path:
        return self._data / "coordinator.toml"

    @property
    def _identity(self) -> Path:
        return self.folder / "admin"

    @property
    def _logs(self) -> Path:
        return self.folder / "logs"

    @property
    def _members(self) -> str:
        return self._addresses["members"]

    @property
    def _newcomers(self) -> str:
        return self._addresses["newcomers"]

    def _site(self, site: str) -> Path:
        return self.folder / "sites" / site

    def _ports(self) -> tuple[int, int]:
        """Return two ports that were free when the federation was founded: members remember where it is."""
        file = self.folder / "ports.json"
        if not file.is_file():
            with socket.socket() as one, socket.socket() as other:
                one.bind((_LOOPBACK, 0))
                other.bind((_LOOPBACK, 0))
                file.write_text(json.dumps([one.getsockname()[1], other.getsockname()[1]]))
        members, newcomers = json.loads(file.read_text())
        return int(members), int(newcomers)

    def _coordinator_toml(self) -> str:
        members, newcomers = self._ports()
        return (
            f'[coordinator]\ndata = "{self._data}"\nlisten = "{_LOOPBACK}:{members}"\n'
            f'enrolment = "{_LOOPBACK}:{newcomers}"\n'
            f'min_free_bytes = 0\n\n[lead]\ncohort = "{self._config.server.cohort}"\n\n'
            f"[compute]\nthreads = 1\n\n{_ANY_PORT.format('metrics')}\n{_ANY_PORT.format('status_page')}"
        )

    def _agent_toml(self, site: str) -> str:
        member = next(member for member in self._config.sites if member.id == site)
        modalities = json.dumps(list(member.modalities or ()))
        return (
            f'[agent]\nsite = "{site}"\ndata = "{self._site(site) / "data"}"\npolicy = "policy.toml"\n'
            f'coordinator = "{self._members}"\nenrolment = "{self._newcomers}"\n\n'
            f'[cohort]\npath = "{member.cohort}"\nmodalities = {modalities}\n\n'
            f"[compute]\nthreads = 1\n\n[limits]\nmin_free_bytes = 0\n\n{_ANY_PORT.format('metrics')}"
        )

    def _policy_toml(self) -> str:
        return f"[aggregation]\nplain = {str(self._plain).lower()}\nminimum_cohort = {self._minimum}\n"

    def _run_toml(self) -> str:
        import tomli_w

        from fedmepd.plan import dump_plan

        plan = dump_plan(self._config.plan(_METHOD))
        aggregation = "plain" if self._plain else "secure"
        return tomli_w.dumps({**plan, "federation": {"aggregation": aggregation, "quorum": 0.6, "grace_s": 60.0}})

    # -- processes --------------------------------------------------------------------------------------------------

    def _environment(self, *, authority: bool = False) -> dict[str, str]:
        file = self.folder / "passphrase"  # a demo has nobody to remember it
        if not file.is_file():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24))
        ours = {_IDENTITY: str(self._identity), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        return {**os.environ, **ours, **({_PASSPHRASE: file.read_text()} if authority else {})}

    def _admin(self, *arguments: str, authority: bool = False, given: str = "") -> str:
        return self._call("coordinator.cli.admin", *arguments, authority=authority, given=given)

    def _agent(self, site: str, command: str, *arguments: str, given: str = "") -> str:
        config = str(self._site(site) / "agent.toml")
        return self._call("site_agent.cli", command, "--config", config, *arguments, given=given)

    def _call(self, module: str, *arguments: str, authority: bool = False, given: str = "") -> str:
        """Run a command to its end and return what it printed.

        Raises:
            RunError: In the command's own words, if it fails.
        """
        done = subprocess.run(  # noqa: S603  our own commands
            _command(module, arguments),
            env=self._environment(authority=authority),
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().removeprefix("error: ").rstrip(".")
            raise RunError(f"{module} {arguments[0]}: {words}"[:2000], remedy=f"the demo's files are in {self.folder}")
        return done.stdout

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self._logs.mkdir(exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603  our own commands
                _command(module, arguments),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop them in order
            )

    def _watch(self) -> None:
        """Show the run as an operator would see it."""
        arguments = ("runs", "watch")
        environment = {key: value for key, value in self._environment().items() if key != "NO_COLOR"}
        subprocess.run(_command("coordinator.cli.admin", arguments), env=environment, check=False)  # noqa: S603

    def _await_file(self, name: str, path: Path) -> None:
        """Wait for a file that a process makes, for as long as the process lives."""
        while not path.is_file():
            self._check_alive(name)
            time.sleep(0.05)

    def _await_metrics(self, site: str) -> str:
        """Wait until an agent says where its metrics are; empty if it has ended by itself meanwhile."""
        process, file = self._processes[site], self._site(site) / "data" / "status.json"
        while process.poll() is None:
            status = json.loads(file.read_text()) if file.is_file() else {}
            if status.get("pid") == process.pid and (address := status.get("metrics")):
                return str(address)
            time.sleep(0.05)
        return ""

    def _await_end(self, name: str) -> None:
        """Wait for a process to end by itself, however long it scores."""
        status = self._processes[name].wait()
        if status != 0:
            raise RunError(f"{name} ended with status {status}", remedy=f"see {self._logs / name}.log")

    def _check_alive(self, name: str) -> None:
        status = self._processes[name].poll()
        if status is not None:
            log = self._logs / f"{name}.log"
            last = (log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"])[-1]
            raise RunError(f"{name} ended with status {status}: {last[:500]}", remedy=f"see {log}")

    def _stop(self) -> None:
        """Stop agents, then the coordinator; whoever does not stop is killed."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + _STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-c", f"from {module} import main; main()", *arguments]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(text)
