"""The command as a whole: help, exit codes, errors of one line."""

import re
import subprocess
import sys

import pytest

from cvlib import __version__
from cvlib.cli import COMMANDS, main
from cvlib.cli.errors import run


def test_help_names_every_command_and_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    for name, description in COMMANDS.items():
        assert re.search(rf"^  {name} +{description}$", output, re.MULTILINE)
    assert "130 interrupted" in output


def test_no_command_is_wrong_usage(capsys):
    assert main([]) == 2
    assert "usage: cvlib" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cvlib {__version__}\n"


def test_an_unknown_command_names_the_nearest_one(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "cvlib: expected a command, got 'trian'; did you mean train?\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples(name, capsys):
    assert main([name, "--help"]) == 0
    text = re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)
    assert f"    cvlib {name}" in text, "no example"
    # An option is followed by a type, a comma or nothing; help texts may begin lines with one, too.
    options = re.split(r"\n\s+(?=--[\w-]+(?:,| [A-Z{\[]|\s*\n))", text)[1:]
    assert options or name == "info"
    for option in options:
        words = re.sub(r"\(default: .*?\)|-[-\w]+,?|\{.*?\}(\|[A-Z]+)?|[A-Z]{2,}", " ", option)
        assert len(words.split()) >= 2, f"no explanation: {option}"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "x", "--epohcs", "3"], "got --epohcs; did you mean --epochs?"),
        (["train", "x", "--frobnicate"], "expected an option of this command, got --frobnicate;"),
        (["train", "x", "--epochs", "three"], "expected --epochs to be an integer, got 'three'"),
        (["train", "x", "--batch-size", "a"], "expected --batch-size to be an integer, got 'a'"),
        (["train", "x", "--warmup", "a"], "expected --warmup to be a number, got 'a'"),
        (["train", "x", "--image-size", "3"], "expected --image-size to be INT INT, got '3'"),
        (
            ["train", "x", "--optimizer", "adam"],
            "muon, adamw, sgd, got 'adam'; did you mean adamw?",
        ),
        (["train"], "expected a dataset, got none"),
        (["train", "x", "--val-share", "1.5"], "expected --val-share in (0, 1), got 1.5"),
        (["train", "--resume"], "expected --out with --resume"),
        (["val", "run"], "required"),
        (["predict", "run"], "expected at least one source"),
        (["predict", "run", "a.png", "--score-threshold", "nan"], "--score-threshold in [0, 1]"),
        (["predict", "run", "a.png", "--save", "pdf"], "--save to be one of images, coco"),
        (["predict", "run", "a.png", "--save", "jsn"], "got 'jsn'; did you mean json?"),
        (["bench", "modl"], "got 'modl'; did you mean model?"),
        (["show", "x", "--count", "0"], "expected --count >= 1, got 0"),
        (["bench", "data"], "expected a dataset for data"),
        (["bench", "--seconds", "0"], "expected --seconds > 0"),
        (["bench", "--batch-sizes", "0"], "expected --batch-sizes >= 1"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cvlib {arguments[0]}: ")
    assert message in line


@pytest.mark.parametrize("name", ["train", "val", "check", "show", "info"])
def test_a_missing_dataset_is_one_line_and_exit_code_1(name, tmp_path, trained, capsys):
    capsys.readouterr()
    run = [str(trained)] if name == "val" else []
    assert main([name, *run, str(tmp_path / "nowhere")]) == 1
    output = capsys.readouterr().err
    assert re.fullmatch(rf"cvlib {name}: .*nowhere.*does not exist.*\n", output), output


@pytest.mark.parametrize(
    "error, code, message",
    [
        (KeyboardInterrupt(), 130, "cvlib x: interrupted\n"),
        (ValueError("bad labels"), 1, "cvlib x: bad labels\n"),
        (OSError("disk full"), 1, "cvlib x: disk full\n"),
    ],
)
def test_errors_become_exit_codes(error, code, message, capsys):
    def fail(arguments):
        raise error

    assert run("cvlib x", fail, []) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("error", [KeyError("surprise"), NotImplementedError("no such operator")])
def test_a_bug_keeps_its_traceback(error):
    def fail(arguments):
        raise error

    with pytest.raises(type(error)):
        run("cvlib x", fail, [])


def test_python_m_cvlib():
    process = subprocess.run(
        [sys.executable, "-m", "cvlib", "--help"], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: cvlib COMMAND")
    assert process.stderr == ""
