from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from siamese_core.errors import UserError
from siamese_core.settings import option
from training.command_line.options import (
    OptionError,
    add_flags,
    build,
    field_names,
    plain,
    read_toml,
    refuse_unknown,
    run_command,
)


@dataclass(frozen=True)
class Settings:
    count: int = option(3, "how many")
    rate: float = option(0.5, "how fast, in % of the peak")
    name: str = option("polyp", "what")
    mirrored: bool = option(True, "whether to mirror")
    widths: tuple[int, ...] = option((32, 64), "how wide")
    label: int | None = option(None, "which class")
    mode: Literal["stretch", "crop"] = option("stretch", "which way")
    folder: Path = option(Path("here"), "where")


@dataclass(frozen=True)
class Demanding:
    needed: int


def parse(
    *flags: str, settings: Any = Settings, prefix: str = "", table: dict[str, Any] | None = None
) -> Any:
    parser = argparse.ArgumentParser()
    add_flags(parser, settings, prefix)
    return build(settings, parser.parse_args(flags), table or {}, prefix)


def from_toml(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    table = read_toml(path)
    refuse_unknown(table, field_names(Settings), path)
    return parse(table=table)


ALL = Settings(
    count=7,
    rate=2.0,
    name="größe",
    mirrored=False,
    widths=(1, 2, 3),
    label=4,
    mode="crop",
    folder=Path("a/b"),
)


def test_without_flags_and_file_the_defaults_hold() -> None:
    assert parse() == Settings()


def test_every_kind_of_setting_is_read_from_flags() -> None:
    found = parse(
        *("--count", "7"),
        *("--rate", "2"),
        *("--name", "größe"),
        "--no-mirrored",
        *("--widths", "1", "2", "3"),
        *("--label", "4"),
        *("--mode", "crop"),
        *("--folder", "a/b"),
    )

    assert found == ALL


def test_every_kind_of_setting_is_read_from_toml(tmp_path: Path) -> None:
    text = """
        count = 7
        rate = 2  # a whole number is a number too
        name = "größe"
        mirrored = false
        widths = [1, 2, 3]
        label = 4
        mode = "crop"
        folder = "a/b"
    """
    found = from_toml(tmp_path, text)

    assert found == ALL
    assert type(found.rate) is float


def test_a_flag_wins_over_the_file_and_the_file_over_the_default() -> None:
    table = {"count": 7, "mirrored": False, "widths": [9], "label": 2}

    assert parse(table=table) == Settings(count=7, mirrored=False, widths=(9,), label=2)
    flags = ("--count", "8", "--mirrored", "--widths", "5", "--label", "0")
    assert parse(*flags, table=table) == Settings(count=8, mirrored=True, widths=(5,), label=0)


def test_falsy_values_are_values() -> None:
    expected = Settings(count=0, rate=0.0, name="", label=0)

    assert parse("--count", "0", "--rate", "0", "--name", "", "--label", "0") == expected
    assert parse(table={"count": 0, "rate": 0.0, "name": "", "label": 0}) == expected


def test_a_prefix_sets_groups_of_equal_names_apart() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Settings, "vae_")
    add_flags(parser, Settings, "unet_")
    args = parser.parse_args(["--vae-count", "1", "--unet-count", "2"])

    assert build(Settings, args, {"vae_rate": 0.25}, "vae_") == Settings(count=1, rate=0.25)
    assert build(Settings, args, {"vae_rate": 0.25}, "unet_") == Settings(count=2)
    assert "unet_count" in field_names(Settings, "unet_")


def test_a_setting_without_default_is_asked_for() -> None:
    assert parse("--needed", "1", settings=Demanding) == Demanding(1)
    assert parse(settings=Demanding, table={"needed": 2}) == Demanding(2)
    with pytest.raises(OptionError, match=r"--needed is needed \(or needed in the TOML file\)"):
        parse(settings=Demanding)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("count = 1.5", "count = 1.5 .* must be an integer"),
        ("count = true", "count = True .* must be an integer"),
        ('rate = "fast"', "rate = 'fast' .* must be a number"),
        ("rate = false", "rate = False .* must be a number"),
        ("name = 3", "name = 3 .* must be a string"),
        ("mirrored = 1", "mirrored = 1 .* must be true or false"),
        ("widths = 32", "widths = 32 .* must be a list of integers"),
        ("widths = [32, 1.5]", r"widths = \[32, 1.5\] .* must be a list of integers"),
        ('label = "none"', "label = 'none' .* must be an integer"),
        ('mode = "pad"', "mode = 'pad' .* must be one of 'stretch', 'crop'"),
        ("mode = [1]", r"mode = \[1\] .* must be one of 'stretch', 'crop'"),
        ("folder = 1", "folder = 1 .* must be a string"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_needed(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        from_toml(tmp_path, line)


@pytest.mark.parametrize(
    "flags", [("--count", "x"), ("--rate", "x"), ("--mode", "pad"), ("--widths",), ("--unknown", "1")]
)
def test_a_flag_that_cannot_be_understood_ends_with_usage(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(*flags)

    assert end.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize("text", ["counts = 3", "[vae]\ncount = 3"])
def test_an_unknown_setting_is_named_with_the_known_ones(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError, match=r"run.toml: unknown setting '(counts|vae)'; known ones: count,"):
        from_toml(tmp_path, text)


def test_no_file_means_no_settings() -> None:
    assert read_toml(None) == {}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.toml: cannot be read as TOML \(.*No such file"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_is_read_as_editors_of_any_system_write_it(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["count = 7", 'name = "größe"', ""])
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "run.toml").write_bytes((mark + text).encode(encoding))
    assert read_toml(tmp_path / "run.toml") == {"count": 7, "name": "größe"}


def test_a_windows_path_in_double_quotes_gets_advice(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(r'folder = "C:\users\polyps"')
    with pytest.raises(OptionError, match="write a Windows path with / or in 'single quotes'"):
        read_toml(tmp_path / "run.toml")


def test_running_out_of_memory_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 99")):

        def main(error: Exception = error) -> int:
            raise error

        with pytest.raises(SystemExit) as end:
            run_command(main)
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("error: out of memory: lower")


@pytest.mark.parametrize("content", [b"count = ", b"count 3", b"\xff\xfe = 1"])
def test_a_malformed_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)

    with pytest.raises(OptionError, match=r"bad\.toml: cannot be read as TOML"):
        read_toml(path)


def test_help_shows_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")

    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "--count INT how many (default: 3)" in text
    assert "how fast, in % of the peak (default: 0.5)" in text
    assert "--label INT which class --mode {stretch,crop} which way" in text


def test_a_users_error_ends_a_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (UserError("mask.png: is empty"), FileNotFoundError(2, "No such file", "mask.png")):

        def main(error: Exception = error) -> int:
            raise error

        with pytest.raises(SystemExit) as end:
            run_command(main)
        shown = capsys.readouterr().err
        assert end.value.code == 2
        assert shown.startswith("error: ")
        assert "mask.png" in shown
        assert shown.count("\n") == 1


def test_a_defect_keeps_its_traceback() -> None:
    def main() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_command(main)


@pytest.mark.parametrize("status", [0, 143])
def test_a_commands_status_is_the_programs(status: int) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(lambda: status)

    assert end.value.code == status


@dataclass(frozen=True)
class Several:
    folders: tuple[str, ...] = option((), "which ones")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("'a'", ("a",)), ("['a', 'b']", ("a", "b")), ("[]", ())],
    ids=["one", "two", "none"],
)
def test_a_text_stands_for_a_list_of_it_where_there_may_be_several(
    text: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(f"folders = {text}", "utf-8")
    found = parse(settings=Several, table=read_toml(tmp_path / "run.toml"))
    assert found == Several(expected)
    assert plain(found)["folders"] == (expected[0] if len(expected) == 1 else expected)


def test_a_list_of_others_than_texts_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("folders = ['a', 1]", "utf-8")
    with pytest.raises(OptionError, match="must be a string, or a list of strings"):
        parse(settings=Several, table=read_toml(tmp_path / "run.toml"))


def test_a_list_of_texts_given_twice_holds_both_and_numbers_given_twice_the_last() -> None:
    @dataclass(frozen=True)
    class Lists:
        folders: tuple[str, ...] = option((), "several")
        widths: tuple[int, ...] = option((32, 64), "how wide")

    parser = argparse.ArgumentParser()
    add_flags(parser, Lists)
    words = ["--folders", "a", "--widths", "1", "2", "--folders", "b", "c", "--widths", "3"]
    assert build(Lists, parser.parse_args(words), {}) == Lists(("a", "b", "c"), (3,))


def test_names_that_a_logs_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    code = (
        "from training.command_line.options import run_command\n"
        "from training.command_line.notes import note\n"
        "run_command(lambda: note('\u540d.png'))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "note: \\u540d.png\n"), done.stderr
