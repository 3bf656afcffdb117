"""Damaged input by the thousand: how bytes and JSON are mutated, and what a reader may do about them.

Mutations are a pure function of a number, so a failure comes back by running the test again. SIAMESE_FUZZ=20
makes twenty times as many; the first are the same.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from siamese_core.errors import UserError

TOKENS = tuple(
    token.encode("utf-8", "surrogatepass")
    for token in (
        *(
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            '"',
            "\\",
            "\n",
            "\r\n",
            "\u2028",
            "\ufeff",
            "\0",
            "null",
            "true",
            "NaN",
        ),
        *(
            "[" * 3000,
            '{"a":' * 3000,
            "9" * 5000,
            '"\\ud800"',
            '"\\u0000"',
            "\ud800",
            "-",
            "1e999",
            "0x1",
            "=",
            "'",
        ),
        *("../", "/etc/passwd", "x" * 300, "/" * 300, '"""', "[[a]]", "a.b.c = 1", "1979-05-27", "inf"),
    )
)


SECONDS = 10
"""The longest that a reader may take over one input."""

_SCALE = int(os.environ.get("SIAMESE_FUZZ", "1"))
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x10000, 16385)
_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "..", "../../x", "/etc/passwd", "a\0b", "\ud800", "é" * 300, "C:\\x", " ", "\n", "%s{}"),
    *([], {}, [[]], [None], {"": None}, {"name": 3}, ["x"] * 50),
)


def rounds(count: int) -> range:
    """Numbers of as many rounds as are asked for here and by SIAMESE_FUZZ."""
    return range(count * _SCALE)


def inputs(seeds: Sequence[bytes], count: int, tokens: Sequence[bytes] = ()) -> Iterator[bytes]:
    """``count`` damaged copies of ``seeds``, taken in turn; ``tokens`` are words of their language."""
    for number in rounds(count):
        noise = random.Random(number)
        data = seeds[number % len(seeds)]
        for _ in range(noise.choice((1, 1, 2, 4, 16))):
            data = _mutated(data, seeds, tokens, noise)
        yield data


def json_values(seeds: Sequence[Any], count: int) -> Iterator[Any]:
    """``count`` copies of the JSON values ``seeds`` in which values are lost, doubled or of another kind."""
    for number in rounds(count):
        noise = random.Random(number)
        value = seeds[number % len(seeds)]
        for _ in range(noise.choice((1, 1, 2, 3))):
            value = _other_value(value, noise)
        yield value


def odd_value(noise: random.Random) -> Any:
    """A value that many readers have not thought of."""
    return noise.choice(_VALUES)


def refusal(call: Callable[[], object], *names: str, below: Path | None = None) -> str | None:
    """The message with which ``call`` refuses its input, None when it works.

    Fails when anything but a UserError is raised, when its message has none of ``names`` (of the file) or
    more than 2000 characters, when the call takes more than SECONDS, and when it writes anywhere but
    ``below`` a folder, runs a program or calls a host.
    """
    try:
        with _time_limit(), _contained(below):
            call()
    except UserError as error:
        message = str(error)
        assert any(name in message for name in names), f"{message!r} names none of {names}"
        assert len(message) <= 2000, f"{len(message)} characters: {message[:200]}"
        return message
    return None


_WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
_RUNS = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}
_watching: list[Path | None] = []


@contextlib.contextmanager
def _contained(below: Path | None) -> Iterator[None]:
    _watching.append(below and below.resolve())
    try:
        yield
    finally:
        _watching.pop()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in _RUNS:
        raise AssertionError(f"{event} {arguments}")
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not changes or isinstance(path, int):
            return
    elif event not in _WRITES:
        return
    path, below = arguments[0], _watching[-1]
    if isinstance(path, (str, bytes, os.PathLike)):
        # Relative to the folder of a descriptor, as rmtree names what it removes.
        folders = [Path(f"/proc/self/fd/{number}") for number in arguments[1:] if isinstance(number, int)]
        folder = folders[-1] if event != "open" and folders and folders[-1].exists() else Path()
        place = Path(os.path.realpath(folder / os.fsdecode(path)))
        if place != Path(os.devnull) and (below is None or not place.is_relative_to(below)):
            raise AssertionError(f"{event} of {path!r}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    # Of the processor, so that a busy machine fails nothing; whatever waits for something is stopped later.
    limits = (
        (signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, 10 * SECONDS),
    )
    before = [signal.signal(number, stop) for _, number, _ in limits]
    for timer, _, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _mutated(data: bytes, seeds: Sequence[bytes], tokens: Sequence[bytes], noise: random.Random) -> bytes:
    if not data:
        return noise.randbytes(noise.randrange(20))
    # Headers stand at the start: half of the mutations happen there.
    reach = len(data) if noise.random() < 0.5 else min(len(data), 64)
    start = noise.randrange(reach)
    end = min(len(data), start + noise.choice((1, 2, 4, 8, 64)))
    kind = noise.randrange(9)
    if kind == 0:
        return data[:start] + bytes([data[start] ^ (1 << noise.randrange(8))]) + data[start + 1 :]
    if kind == 1:
        return data[:start] + noise.randbytes(end - start) + data[end:]
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:end] * noise.choice((1, 1, 100)) + data[end:]
    if kind == 4:
        return data[:start]
    if kind == 5:
        other = noise.choice(seeds)
        return data[:start] + other[noise.randrange(len(other)) :]
    if kind == 6 and tokens:
        return data[:start] + noise.choice(tokens) + data[noise.choice((start, end)) :]
    width = noise.choice((1, 2, 4, 8))
    number = noise.choice(_NUMBERS) % (1 << 8 * width)
    return data[:start] + number.to_bytes(width, noise.choice(("big", "little"))) + data[start + width :]


def _other_value(value: Any, noise: random.Random) -> Any:
    """``value`` with one change, in itself or deeper down."""
    if not isinstance(value, (dict, list)) or not value or noise.random() < 0.1:
        return odd_value(noise)
    places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    place, kind = noise.choice(places), noise.randrange(6)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if kind == 0:
        del copy[place]
    elif kind == 1 and isinstance(value, dict):
        copy[str(odd_value(noise))] = copy.pop(place)
    elif kind == 1:
        copy.append(value[place])
    else:
        copy[place] = _other_value(value[place], noise)
    return copy
