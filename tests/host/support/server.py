"""A real ComfyUI as a process of its own, with packs of nodes, driven over HTTP and its websocket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

# Tests talk to their own machine only, whatever proxy the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TEXT = (3).to_bytes(4, "big")
"""What a message begins with that writes text on a node; the node's id follows, behind its length."""
_NOT_THE_PACK = (".git", ".venv", ".host", "build", "runs", "__pycache__")


@dataclass(frozen=True)
class Installation:
    """A folder with ComfyUI's main.py and the interpreter that runs it."""

    comfyui: Path
    python: Path


class HostError(Exception):
    """ComfyUI refused a prompt, a node failed, or the process itself did; the message gives its words."""

    def __init__(
        self,
        message: str,
        *,
        node_errors: Mapping[str, Any] | None = None,
        failure: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.node_errors = dict(node_errors or {})
        """What a refused prompt's validation found, by node id."""
        self.failure = dict(failure or {})
        """A failed node's report: node_id, node_type, exception_type, exception_message, traceback."""


class Interrupted(HostError):
    """The prompt was stopped by an interruption."""


class Host:
    """ComfyUI below ``folder``, which takes its models, input and output; up when the constructor returns.

    ``packs`` maps the name of a folder in custom_nodes to the pack that is copied there. Equal nodes of two
    prompts are computed once, as for a user; ``flags=["--cache-none"]`` has everything computed anew.
    """

    def __init__(
        self,
        installation: Installation,
        folder: Path,
        packs: Mapping[str, Path] | None = None,
        *,
        flags: Sequence[str] = (),
        deadline: float = 600.0,
    ) -> None:
        self.folder = folder = folder.absolute()
        for name in ("custom_nodes", "models", "input", "output", "user"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, pack in (packs or {}).items():
            copy_pack(pack, folder / "custom_nodes" / name)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._client = uuid.uuid4().hex
        self._messages: list[dict[str, Any]] = []
        self._texts: list[tuple[str, str]] = []
        self._arrived = threading.Condition()
        self._socket = websocket.WebSocket()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._log = folder / "comfyui.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # Absolute, as its folder is another; unresolved, as an environment's python is a link.
                    str(installation.python.absolute()),
                    str(installation.comfyui.absolute() / "main.py"),
                    "--cpu",
                    *("--port", str(port), "--disable-api-nodes", "--base-directory", str(folder)),
                    # The database would otherwise lie in the installation, for one process at a time.
                    *("--database-url", f"sqlite:///{folder / 'user' / 'comfyui.db'}"),
                    *flags,
                ],
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_up(deadline)
            self._socket.connect(f"ws://127.0.0.1:{port}/ws?clientId={self._client}")
            self._listener.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log(self) -> str:
        """Everything that the process has printed so far."""
        return self._log.read_text("utf-8", errors="replace")

    @property
    def models_dir(self) -> Path:
        """Where ``checkpoints/``, ``controlnet/`` and the like are looked for; tests make what they need."""
        return self.folder / "models"

    @property
    def input_dir(self) -> Path:
        return self.folder / "input"

    @property
    def output_dir(self) -> Path:
        return self.folder / "output"

    def object_info(self) -> dict[str, Any]:
        """The schema of every registered node, by id."""
        return self.get("/object_info")

    def upload(self, name: str, content: bytes) -> str:
        """Put a file into the input directory as the page does; the name under which nodes find it."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'.encode(),
            b"Content-Type: application/octet-stream\r\n\r\n",
            content,
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue'.encode(),
            f"\r\n--{boundary}--\r\n".encode(),
        ]
        answer = self._call("/upload/image", b"".join(parts), f"multipart/form-data; boundary={boundary}")
        return f"{answer['subfolder']}/{answer['name']}".lstrip("/")

    def run(self, prompt: Mapping[str, Any], timeout: float = 300.0) -> dict[str, Any]:
        """Queue ``prompt`` (API format) and wait for its end; its entry in the history.

        Raises HostError when it is refused, when a node fails and when ``timeout`` seconds are not enough.
        """
        return self.wait(self.queue(prompt), timeout)

    def queue(self, prompt: Mapping[str, Any]) -> str:
        """Queue ``prompt`` and return its id at once; raises HostError when it is refused, even in part."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": self._client})
        if answer["node_errors"]:  # The host would run what does not depend on the nodes in error.
            self.post("/queue", {"delete": [answer["prompt_id"]]})
            self.post("/interrupt", {"prompt_id": answer["prompt_id"]})
            raise _refusal(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 300.0) -> dict[str, Any]:
        """The history's entry of a prompt that ``queue`` queued, once that has ended; raises as ``run``."""
        end = time.monotonic() + timeout
        while prompt_id not in (history := self.get(f"/history/{prompt_id}")):
            if time.monotonic() > end:
                self.interrupt()
                raise HostError(f"The prompt did not end within {timeout:.0f} s.\n{self._tail()}")
            time.sleep(0.1)
        # The socket's last word comes after the history's: with it, messages() is complete.
        self._await(lambda message: _is_last(message, prompt_id), 30.0)
        entry: dict[str, Any] = history[prompt_id]
        for kind, data in entry["status"]["messages"]:
            if kind == "execution_interrupted":
                raise Interrupted(f"The prompt was interrupted in {data['node_type']}.", failure=data)
            if kind == "execution_error":
                where = f"node {data['node_id']} ({data['node_type']})"
                raise HostError(f"{where}: {data['exception_message'].strip()}", failure=data)
        return entry

    def interrupt(self) -> None:
        """Stop what is running; the prompt's ``wait`` then raises Interrupted."""
        self.post("/interrupt", {})

    def messages(self, prompt_id: str) -> list[dict[str, Any]]:
        """What the websocket said about a prompt: dicts of ``type`` (as progress, executing) and ``data``."""
        with self._arrived:
            return [message for message in self._messages if message["data"].get("prompt_id") == prompt_id]

    def progress(self, prompt_id: str) -> list[tuple[str, int, int]]:
        """Every step of progress bars: the node's id, the value, and the value at the end."""
        reports = [message["data"] for message in self.messages(prompt_id) if message["type"] == "progress"]
        return [(data["node"], data["value"], data["max"]) for data in reports]

    def text_on(self, node: str) -> str:
        """The text that was last written on a node, beneath its widgets; "" when none was."""
        with self._arrived:
            return next((text for number, text in reversed(self._texts) if number == node), "")

    def wait_for_message(self, prompt_id: str, kind: str, timeout: float = 60.0) -> dict[str, Any]:
        """The data of the first message of ``kind`` about a prompt, which may have come already."""

        def wanted(message: dict[str, Any]) -> bool:
            return message["type"] == kind and message["data"].get("prompt_id") == prompt_id

        return self._await(wanted, timeout)["data"]

    def get(self, route: str) -> Any:
        """The JSON that ``route`` answers."""
        return self._call(route)

    def post(self, route: str, content: Mapping[str, Any]) -> Any:
        """Send JSON to ``route``; the JSON of its answer, None when that is empty."""
        return self._call(route, json.dumps(content).encode(), "application/json")

    def kill(self) -> None:
        """End the process as a power cut would: it can finish nothing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process; harmless when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._listener.is_alive():
            self._listener.join(5)  # The process has closed the other end.
        self._socket.shutdown()

    def _wait_until_up(self, deadline: float) -> None:
        end = time.monotonic() + deadline
        while True:
            try:
                with _DIRECT.open(f"{self.url}/system_stats", timeout=10):
                    return
            except OSError as error:
                self._check_alive(error)
                if time.monotonic() > end:
                    raise HostError(f"ComfyUI was not up after {deadline:.0f} s.\n{self._tail()}") from error
            time.sleep(0.25)

    def _call(self, route: str, content: bytes | None = None, kind: str = "") -> Any:
        request = urllib.request.Request(self.url + route, content, {"Content-Type": kind} if kind else {})
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            body = error.read().decode("utf-8", errors="replace")
            if route == "/prompt" and error.code == 400:
                raise _refusal(json.loads(body)) from None
            raise HostError(f"{route} answered {error.code}: {body}") from error
        except OSError as error:
            self._check_alive(error)
            raise
        return json.loads(text) if text else None

    def _listen(self) -> None:
        while True:
            try:
                text = self._socket.recv()
            except (OSError, websocket.WebSocketException):
                return  # The process ended or closes.
            if not text:
                return
            with self._arrived:
                if isinstance(text, str):
                    self._messages.append(json.loads(text))
                elif text.startswith(_TEXT):  # Previews are bytes, too.
                    size = int.from_bytes(text[4:8], "big")
                    self._texts.append((text[8 : 8 + size].decode(), text[8 + size :].decode()))
                self._arrived.notify_all()

    def _await(self, wanted: Callable[[dict[str, Any]], bool], timeout: float) -> dict[str, Any]:
        def first() -> dict[str, Any] | None:
            return next((message for message in self._messages if wanted(message)), None)

        with self._arrived:
            found = self._arrived.wait_for(first, timeout)
        if found is None:
            raise HostError(f"The message did not come within {timeout:.0f} s.\n{self._tail()}")
        return found

    def _check_alive(self, error: Exception) -> None:
        if self._process.poll() is not None:
            status = self._process.returncode
            raise HostError(f"ComfyUI ended with status {status}.\n{self._tail()}") from error

    def _tail(self, lines: int = 40) -> str:
        return "The end of its log:\n" + "\n".join(self.log.splitlines()[-lines:])


def copy_pack(source: Path, target: Path) -> None:
    """Copy what git tracks or would track of ``source``, as a user's clone has it: no environment."""
    names = _git_files(source)
    if names is None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_THE_PACK))
        return
    for name in names:
        if (source / name).is_file():  # git also lists what was deleted and not committed yet
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def _git_files(folder: Path) -> list[str] | None:
    """Names below ``folder`` of files that are tracked or neither tracked nor ignored; None without git."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return [name for name in found.split("\0") if name] or None


def _environment() -> dict[str, str]:
    """This process's environment, with what makes small models fast and without its own modules."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Threads that spin for each other make a tiny step take seconds on a busy machine.
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_last(message: dict[str, Any], prompt_id: str) -> bool:
    data = message["data"]
    return message["type"] == "executing" and data["node"] is None and data.get("prompt_id") == prompt_id


def _refusal(answer: Mapping[str, Any]) -> HostError:
    """The error for a prompt that validation refused: its nodes' reasons, else the prompt's own."""
    node_errors = answer["node_errors"] or {}
    reasons = [
        f"node {node_id} ({found['class_type']}): {error['message']}: {error['details']}"
        for node_id, found in node_errors.items()
        for error in found["errors"]
    ]
    return HostError("\n".join(reasons) or answer["error"]["message"], node_errors=node_errors)
