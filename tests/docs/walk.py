"""A page walked through from top to bottom: hosts are folders, their network is the loopback interface.

What is changed of the page's words, and why: absolute paths lie in the host's folder (the stick is carried between
hosts), `fed.example.org` is this machine with ports that are free, the first host's name in a block for several is each
host's own. Questions are answered, tokens typed where they are asked for: as somebody does who reads the page.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.docs.blocks import COMMANDS, Block
from tests.docs.terminal import Answer, perform

PASSPHRASE = "correct horse battery staple"
_BIN = Path(sys.executable).parent
_ABSOLUTE = re.compile(r"(?<![\w./$])/(?=(?:srv|data|var|etc|media|backup)/)")
_TOKEN = re.compile(r"fedmepd1\.[A-Za-z0-9_.\-]+")
_ANSWERS = (
    Answer(re.compile(r"\[y/N\]"), "y"),
    Answer(re.compile(r"(assphrase|assword|confirmation)[^\n]*: $"), PASSPHRASE),
)
_COMMAND_S, _READY_S, _STOP_S = 240.0, 60.0, 20.0


class Walk:
    """A page's hosts and what runs on them.

    Args:
        folder: Where the hosts are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members, self._newcomers = _free_ports(2)
        self._tokens: dict[str, str] = {}
        self._processes: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what was left running."""
        for _, process, _ in reversed(self._processes):
            process.terminate()
        for _, process, _ in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def perform(self, block: Block) -> str:
        """Do what a block says on each of its hosts, and return what was to be seen.

        Raises:
            AssertionError: If a command fails.
        """
        seen = ""
        if "stop" in block.told:
            self.stop(block.told["stop"])
        for host in block.hosts:
            text = self._local(block.text, host, block.hosts[0])
            if "file" in block.told:
                free = '\n[metrics]\nlisten = "127.0.0.1:0"\n' if "[agent]" in text else ""  # hosts share this machine
                (self.host(host) / block.told["file"]).write_text(text + free)
            elif "stays" in block.told:
                self._stay([self._local(command, host, block.hosts[0]) for command in block.commands], host)
            elif block.language in COMMANDS:
                seen += self.run(block.commands, host, block.place, first=block.hosts[0])
        return seen

    def host(self, name: str) -> Path:
        """Return a host's folder."""
        path = self._folder / name
        for part in ("data", "srv", "etc/fedmepd", "var/lib", "backup"):
            (path / part).mkdir(parents=True, exist_ok=True)
        return path

    # -- words ------------------------------------------------------------------------------------------------------

    def _local(self, text: str, host: str, first: str) -> str:
        text = re.sub(rf"\b{re.escape(first)}\b", host, text) if host != first else text
        text = text.replace("/media/usb/", f"{self._folder}/usb/")
        text = _ABSOLUTE.sub(f"{self.host(host)}/", text)
        text = re.sub(r"--coordinator fed\.example\.org(?!:)", f"{self._at()} {self._at('enrolment')}", text)
        text = text.replace("fed.example.org:8443", f"localhost:{self._members}")
        text = text.replace("fed.example.org:8444", f"localhost:{self._newcomers}")
        if "coordinator =" in text and "enrolment =" not in text:  # the default is a fixed port
            text = text.replace("[agent]\n", f'[agent]\nenrolment = "localhost:{self._newcomers}"\n')
        return text.replace("fed.example.org", "localhost")

    def _at(self, what: str = "coordinator") -> str:
        port = self._members if what == "coordinator" else self._newcomers
        return f"--{what} localhost:{port}"

    # -- deeds ------------------------------------------------------------------------------------------------------

    def run(self, commands: Sequence[str], host: str, place: str, *, first: str = "") -> str:
        """Run commands of a page on a host, and return what was to be seen.

        Args:
            commands: As the page has them.
            host: Where.
            place: Where they stand, for messages.
            first: The host that the page means when it means each.

        Raises:
            AssertionError: If one fails.
        """
        whole = ""
        for written in commands:
            command = self._local(written, host, first or host)
            code, seen = perform(
                command.replace("--token -", "--token - <<< $TOKEN"),
                folder=self.host(host),
                environment=self._environment(host),
                answers=_ANSWERS,
                timeout_s=_COMMAND_S,
            )
            assert code == 0, f"{place}, on {host}: {command!r} ended with {code}:\n{seen[-3000:]}"
            self._note_tokens(command, seen)
            if "fedmepd-coordinator init " in command:
                self._place(host)
            whole += seen
        return whole

    def _stay(self, commands: Sequence[str], host: str) -> None:
        """Start what stays, and wait until it can be used."""
        for command in commands:
            log = self.host(host) / f"log-{len(self._processes)}.txt"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    cwd=self.host(host),
                    env=self._environment(host),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            self._processes.append((host, process, log))
            sign = b'"serving"' if " serve" in command else b'"connected"'
            self._await(process, log, sign)

    def stop(self, host: str) -> None:
        """End what stays on a host, in order."""
        for name, process, _ in [entry for entry in self._processes if entry[0] == host]:
            process.terminate()
            assert process.wait(_STOP_S) == 0, name
        self._processes = [entry for entry in self._processes if entry[0] != host]

    def _await(self, process: subprocess.Popen[bytes], log: Path, sign: bytes) -> None:
        until = time.monotonic() + _READY_S
        while sign not in log.read_bytes():
            assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < until, f"not ready:\n{log.read_text()[-3000:]}"
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue

    def _environment(self, host: str) -> dict[str, str]:
        home = self.host(host)
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        token = self._tokens.get(host) or self._tokens.get("alice", "")
        return kept | {
            "PATH": f"{_BIN}:{os.environ['PATH']}",
            "HOME": str(home),
            "TERM": "dumb",
            "COLUMNS": "120",
            "TOKEN": token,
            "FEDMEPD_BACKUP_PASSPHRASE": PASSPHRASE,
            "FEDMEPD_P12_PASSWORD": PASSPHRASE,
        }

    def _note_tokens(self, command: str, seen: str) -> None:
        found = _TOKEN.findall(seen)
        if not found:
            return
        if made := re.search(r"tokens create (\S+)", command):
            self._tokens[made[1]] = found[-1]
        elif " token " in command:
            self._tokens[command.rsplit(maxsplit=1)[-1]] = found[-1]

    def _place(self, host: str) -> None:
        """Let the coordinator listen at the ports of this walk."""
        (path,) = (self.host(host) / "srv").glob("*/coordinator.toml")
        text = re.sub(r'(?m)^#? ?(listen|enrolment) = "[^"]*:844[34]".*\n', "", path.read_text())
        ports = f'listen = "127.0.0.1:{self._members}"\nenrolment = "127.0.0.1:{self._newcomers}"\n'
        text = text.replace("[coordinator]\n", f"[coordinator]\n{ports}")
        free = (f'\n[{section}]\nlisten = "127.0.0.1:0"\n' for section in ("metrics", "status_page"))
        path.write_text(text + "".join(free))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def addresses(folder: Path) -> dict[str, str]:
    """Return where a coordinator listens."""
    return dict(json.loads((folder / "addresses.json").read_text()))
