"""Every command has help with an example, and every example is a call that the command takes."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest
from command_line import run

from adaptive_smoothing_zoo.cli import SECTIONS, asz


def walk(command, *path):
    """All commands below one, with the words that call them."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, *path, name)


COMMANDS = dict(walk(asz))


def examples(command):
    """The calls in a command's help, lines that go on joined."""
    text = (command.epilog or "").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip().startswith("asz ")]


def parsed(words):
    """The command that a call runs and what it gets; nothing is run. click.UsageError if it is no call."""
    command, context = asz, None
    while isinstance(command, click.Group):
        context = command.make_context(command.name, [words.pop(0)] if words else [], parent=context)
        name, command, _ = command.resolve_command(context, context._protected_args)
    return name, command.make_context(name, words, parent=context).params


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_has_help_with_an_example_of_itself_that_parses(path):
    command = COMMANDS[path]
    assert command.help
    calls = examples(command)
    assert calls
    if path:
        assert any(call.startswith(" ".join(("asz", *path))) for call in calls)
    for call in calls:
        words = shlex.split(call.partition(" > ")[0])[1:]
        if words[-1] not in ("--help", "--schema"):
            parsed(words)


def test_a_call_that_is_none_would_be_found():
    for call in ("eval", "eval Model --no-such-option", "plot nothing", "nothing"):
        with pytest.raises(click.UsageError):
            parsed(call.split())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_are_shown_as_they_are_written_and_fit_into_a_terminal(path, capsys):
    text = run(capsys, *path, "--help")[1]
    for line in (COMMANDS[path].epilog or "").splitlines()[1:]:
        assert f"  {line}\n" in text
        assert len(line) <= 78


def test_the_help_lists_every_command_once_by_topic(capsys):
    text = run(capsys, "--help")[1]
    assert all(f"\n{title}:\n" in text for title in SECTIONS)
    for name in asz.commands:
        assert len(re.findall(rf"^  {name}  ", text, re.MULTILINE)) == 1, name
    assert "certified" not in asz.commands  # it is asz plot certified
    assert set(asz.commands["plot"].commands) == {"certified", "trade-off"}


def test_the_calls_of_make_demo_parse_and_its_last_line_names_the_page():
    text = (Path(__file__).parents[2] / "Makefile").read_text()
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1].replace("$(OUT)", "results").splitlines()
    calls = [line.partition("$(BIN)/asz ")[2] for line in recipe if "$(BIN)/asz" in line]
    assert [parsed(shlex.split(call))[0] for call in calls] == ["eval", "card", "trade-off", "leaderboard"]
    assert recipe[-1].startswith('\t@echo "Look: open results/leaderboard.html ')


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "eval").rglob("*.md"))]
PROGRAMS = ("accelerate", "asz", "bash", "cd", "git", "make", "mypy", "pip", "python", "ruff", "sh", "torchrun")


def shell_lines(page):
    """The lines of a page's shell blocks, without comments, loops and assignments; lines that go on joined."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in re.sub(r"\\\n\s*|(?m:(?:^|\s)#.*)", " ", block).splitlines():
            words = shlex.split(line)
            if words and not re.match(r"for|done|\w+=", words[0]):
                yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_call_that_a_page_shows_parses(page):
    for words in shell_lines(page):
        assert words[0] in PROGRAMS, words
        if words[0] == "asz":
            assert "asz" not in words[1:], words
            with suppress(click.exceptions.Exit):  # --help and what lists and ends
                parsed([word for word in words[1:] if not word.startswith("$")])
