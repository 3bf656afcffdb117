"""The front door: ``python -m training`` lists the commands and runs one."""

from __future__ import annotations

from pathlib import Path

import pytest

import training
from training.__main__ import COMMANDS, main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_it_lists_every_command_with_a_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 0

    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == list(COMMANDS)
    assert all(text.endswith(".") or text.endswith("?") for _, text in lines)


def test_every_module_at_the_top_of_the_room_is_a_command() -> None:
    modules = {path.stem for path in Path(training.__file__).parent.glob("*.py")}
    assert modules - {"__init__", "__main__"} == set(COMMANDS)


def test_it_runs_the_command_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("make-base", "--help") == 0
    assert "--images" in capsys.readouterr().out


def test_a_refusal_of_a_command_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("merge", str(tmp_path / "nothing")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_an_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trian") == 2
    message = capsys.readouterr().err
    assert "'trian'" in message and "train" in message
