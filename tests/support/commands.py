"""Commands run in this process, and what they are told and end with."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from training.command_line.options import run_command

Command = Callable[[Sequence[str]], int]
SignalAtPair = Callable[[int, signal.Signals], None]
SignalInStep = Callable[[str, int, signal.Signals], None]
MODEL_PROMPT = "a phantom of a polyp"


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    status: int
    output: str
    errors: str

    @property
    def refusal(self) -> str:
        """The one-line message of a command that refused its input; fails for any other ending."""
        assert self.status == 2, self.errors
        *before, last = self.errors.rstrip().splitlines()
        assert last.startswith("error: ")
        assert not any(line.startswith(("error: ", "Traceback")) for line in before)
        return last.removeprefix("error: ")


def run_here(command: Command, *flags: object) -> Outcome:
    """Run ``command flags`` as its process would, but in this one, which spares the seconds of imports."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        run_command(lambda: command([str(flag) for flag in flags]))
    return Outcome(int(end.value.code or 0), output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def sigint_interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt; a shell starts its background jobs, tests too, with it ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
