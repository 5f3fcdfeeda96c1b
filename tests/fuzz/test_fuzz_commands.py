"""The command line under wrong arguments, wrong files and strange surroundings: one sentence, never a traceback."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from damage import damage
from fuzzing import assert_no_leftovers, cases, restored, snapshot
from huggingface_hub import constants
from safetensors.torch import load
from strange import HUGE
from strange import TEXTS as ALL_TEXTS

import adaptive_smoothing_zoo.cli as cli
from adaptive_smoothing_zoo import data, load_model
from adaptive_smoothing_zoo.storage import provenance
from adaptive_smoothing_zoo.training import plan, runs
from adaptive_smoothing_zoo.zoo import embedding, registry

NAME, FOLDER = "Demo2026Constant", Path("digits") / "Linf"
DIGITS = ("--dataset", "digits")
TEXTS = [text for text in ALL_TEXTS if text not in ("\x00", "\ud800")] + ["\udcff", "--", "-"]
NUMBERS = [str(number) for number in HUGE if number == number and abs(number) < 1e300]
NUMBERS += ["2", "3", "5", "6", "1e3", "0x10", "２", "1_0", "nan", "inf", "-inf", "0.5", "many", ""]
PLACES = ["", ".", "file.txt", "file.txt/deeper", "missing", "missing/deeper", "empty", "results", "damaged", "saved"]
PLACES += ["export", "images.npz", "bad.npz", "shards", "x" * 300, "/dev/null", "/dev/full/x", "/proc/none/x"]
PLACES += ["recipe.toml", "ä\nö", "\udcff", "~", "g.pt", "h.pt", "link", "loop"]
NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def fails():
    raise KeyError("a")
"""
CERTIFY = ("certify", NAME, *DIGITS, "--sigma", "0.5", "--n", "20", "--n-examples", "2")
LOG = f"results/digits/Linf/certificates/{NAME}.smoothed-0.5-hard.tsv"


def command_lines():
    """All commands, those of groups too: their words and what click knows of them."""
    found = []

    def walk(words, command):
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                walk([*words, name], inner)
        else:
            found.append((words, command))

    walk([], cli.asz)
    return found


def run(arguments):
    """Exit code, standard output and standard error of ``asz`` in this process; what escapes it is a traceback."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    old, sys.argv = sys.argv, ["asz", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        sys.argv = old
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def assert_told(code, out, err, what):
    """The promise to whoever types a command."""
    assert "Traceback" not in out + err, (what, err)
    assert code in (0, 1, 2), (what, code, err)
    before, error, sentence = f"\n{err}".rpartition("\nError: ")
    if code == 2:
        assert error, (what, err)
        assert len(sentence.split()) >= 3, (what, err)
        assert "\nError: " not in before, (what, err)
    else:
        assert not error, (what, code, err)
        assert code == 0 or "checks failed" in err or "check-entry" in what[1], (what, err)


def assert_whole(folder, before, what):
    """Every file that is there now and was not before, or not so, can be read to its end; nothing temporary is left."""
    for name, content in snapshot(folder).items():
        if before.get(name) == content:
            continue
        path = folder / name
        if path.suffix == ".json":
            json.loads(content)
        elif path.suffix == ".safetensors":
            load(content)
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None, (what, name)
        elif path.suffix in (".md", ".html", ".tsv"):
            assert content.endswith(b"\n"), (what, name)
    assert_no_leftovers(folder)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Five examples, no network, and nothing written into the package or the user's cache."""
    folder, load_data = tmp_path_factory.mktemp("short"), data.load_data
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(data, "load_data", lambda *given, **named: few(load_data(*given, **named)))
        monkeypatch.setattr(provenance, "source_commit", lambda: None)
        monkeypatch.setattr(runs, "run_recipe", lambda *given, **named: None)
        monkeypatch.setattr(plan, "pace", lambda *given: 1.0)
        monkeypatch.setattr(embedding, "embed", partial(embedding.embed, package=folder / "package"))
        monkeypatch.setattr(registry, "ENTRIES", shutil.copytree(registry.ENTRIES, folder / "entries"))
        for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE", "HF_HOME"):
            monkeypatch.setattr(constants, name, str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


def few(examples):
    return examples.first(min(5, len(examples)))


@pytest.fixture(scope="module")
def world(short, tmp_path_factory):
    """A folder with a little of all that commands read and write; the working folder of each case is a copy of it."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        fill_working_folder()
    return folder


def fill_working_folder():
    for arguments in (
        ("eval", NAME, *DIGITS),
        ("adapt", NAME, *DIGITS),
        ("validate", NAME, *DIGITS, "--n", "2"),
        ("verify", NAME, *DIGITS, "--n", "5"),
        ("leaderboard", "results"),
        ("export", NAME, "export", *DIGITS),
        ("eval", NAME, *DIGITS, "--shard", "0/2", "--out", "shards"),
        ("eval", NAME, *DIGITS, "--shard", "1/2", "--out", "shards"),
        CERTIFY,
    ):
        code, _, err = run(arguments)
        assert code in (0, 1), err
    model = load_model(NAME, dataset="digits")
    model.save_pretrained("saved")
    torch.save(model.std_model.state_dict(), "g.pt")
    torch.save({"state_dict": model.rob_model.state_dict()}, "h.pt")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(3))
    np.savez("bad.npz", images=images)
    Path("file.txt").write_text("no folder")
    Path("net.py").write_text(NET)
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).state_dict(), "net.pt")
    Path("empty").mkdir()
    shutil.copytree("results", "damaged")
    for path in sorted(Path("damaged").rglob("*.*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-20])
    Path("link").symlink_to("results")
    Path("loop").symlink_to("loop")
    shutil.copy(Path(cli.__file__).parents[1] / "recipes" / "digits_std.toml", "recipe.toml")


@pytest.fixture
def case(world, tmp_path, monkeypatch):
    """Make a fresh copy of the world the working folder."""

    def fresh():
        monkeypatch.chdir(tmp_path)
        with restored(tmp_path / "copy", world) as copy:
            monkeypatch.chdir(copy)
        return copy

    return fresh


VALUES = {
    "name": ["Mine", "a.run", *TEXTS],
    "reference": [NAME] * 24
    + ["Demo2026Adaptive", "demo2026constant", "Bai2024MixedNUTS", "saved", "net.py:make", "net.py:fails", *TEXTS]
    + ["timm:none", "torchvision:none", "base:none", "robustbench:none", "missing.py:make", ".:x", "net.py:", ":make"],
    "names": ["margins", "all", "trust-options", "no such", *TEXTS],
    "model": [NAME] * 4 + TEXTS,
    "dataset": ["digits"] * 15 + ["cifar100", "imagenet", "DIGITS", *TEXTS],
    "threat_model": ["Linf"] * 8 + ["L2", "linf", *TEXTS],
    "device": ["cpu", "cpu", "auto", "cuda", "cuda:9", "meta", "tpu", "cpu:1", *TEXTS],
    "engine": ["fast", "warp", *TEXTS],
    "eps": ["1/5", "0.1", "0", "8/255", "-1/255", "1/0", "1e999", "1e-999999999", "nan", "inf", *TEXTS],
    "shard": ["0/1", "0/2", "1/2", "2/2", "-1/2", "1", "1/", "/2", "a/b", "٠/٢", "9" * 30 + "/" + "9" * 31, *TEXTS],
    "shard_size": ["1KB", "1GB", "0", "-1KB", "1XB", "1", "KB", "1e3GB", *TEXTS],
    "only": ["finite_gradients", "repeated_forward", "no such check", *TEXTS],
    "checkpoint": ["h.pt", "net.pt", *TEXTS],
    "link": ["https://example.org", *TEXTS],
    "repo": ["org/name", "a/b/c", *TEXTS],
    "changes": ["training.seed=1", "training.seed=x", "a=b", "training", "=", "a.b.c=1", *TEXTS],
    "part": ["whole", "rob_model", "other"],
    "sigma": ["0.5", "0.25", "0", "-1", "nan", "inf", "x"],
    "n_examples": ["1", "2", "0", "-1", "6", "x"],
    "failure_probability": ["0.001", "0", "1", "nan", "x"],
    "radius": ["0.1", "0", "-1", "nan", "x"],
}
FORCED = {
    "certify": {"n": ["20", "0", "-1", "x"]},
    "experiment": {"steps": ["1", "-1", "x"]},
    "validate": {"only": None},
}


def value_of(parameter, rng):
    if parameter.name in VALUES:
        return rng.choice(VALUES[parameter.name])
    if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        return rng.choice(NUMBERS)
    if isinstance(parameter.type, click.Path) or parameter.name in ("data_dir", "model_dir"):
        return rng.choice(PLACES)
    if isinstance(parameter.type, click.Choice):
        return rng.choice([*parameter.type.choices, *TEXTS])
    return rng.choice([*TEXTS, *PLACES, *NUMBERS])


def draw_arguments(words, command, rng):
    """A command line, right in most of its parts."""
    arguments = []
    forced = FORCED.get(words[0], {})
    wrong = rng.random()
    options = [p for p in command.params if isinstance(p, click.Option)]
    for option in options:
        likely = 0.9 if option.name == "dataset" else 1.0 if option.name in forced or option.required else 0.12
        if rng.random() >= likely:
            continue
        flag = rng.choice([o for o in option.opts if o.startswith("--")])
        if option.is_flag:
            arguments.append([flag])
        else:
            value = rng.choice(forced[option.name]) if forced.get(option.name) else value_of(option, rng)
            arguments.append(rng.choice([[flag, value], [f"{flag}={value}"]]))
    for argument in [p for p in command.params if isinstance(p, click.Argument)]:
        arguments.append([value_of(argument, rng)])
    if wrong < 0.2 and arguments:
        change = rng.randrange(6)
        if change == 0:
            arguments.pop(rng.randrange(len(arguments)))
        elif change == 1:
            arguments.append(arguments[rng.randrange(len(arguments))])
        elif change == 2:
            arguments.append([rng.choice(["--colour", "-x", "--n", "--", "--help", "-h", "--version", "--out"])])
        elif change == 3:
            arguments.append([rng.choice([*TEXTS, *PLACES])])
        elif change == 4:
            rng.shuffle(arguments)
        else:
            words = [*words[:-1], rng.choice([words[-1] + "x", words[-1].upper(), words[-1][:-1], "", "--", "-h"])]
    return [*words, *(part for group in arguments for part in group)]


def test_wrong_arguments(case):
    """Any command with any arguments ends well, or with one sentence and exit code 2; its files are whole."""
    commands = command_lines()
    codes = dict.fromkeys((0, 1, 2), 0)
    folder, before = None, {}
    for number, rng in cases("arguments", 1500):
        if folder is None:
            folder = case()
            before = snapshot(folder)
        arguments = draw_arguments(*rng.choice(commands), rng)
        if "--update-entry" in arguments:
            arguments.remove("--update-entry")
        told = run(arguments)
        assert_told(*told, (number, arguments))
        codes[told[0]] += 1
        if told[0] != 2 or snapshot(folder) != before:
            assert_whole(folder, before, (number, arguments))
            folder = None
    assert codes[0] > 60
    assert codes[2] > 600


HERE = "results/digits/Linf/*"
READERS = [  # what is damaged (a pattern), and the command that reads it
    ("saved/*", ("eval", NAME, *DIGITS, "--model-dir", "saved")),
    ("saved/*", ("verify", NAME, *DIGITS, "--n", "5", "--model-dir", "saved")),
    ("saved/*", ("export", NAME, "exported", *DIGITS, "--model-dir", "saved")),
    (HERE, ("eval", NAME, *DIGITS, "--compare-with", "results", "--out", "out")),
    (HERE, ("adapt", NAME, *DIGITS)),
    (HERE, ("validate", NAME, *DIGITS, "--n", "2", "--only", "recorded_run")),
    (HERE, ("leaderboard", "results")),
    (HERE, ("claim", NAME, *DIGITS, "--checkpoint", "https://example.org")),
    (HERE, ("card", NAME, *DIGITS)),
    (HERE, ("export", NAME, "exported", *DIGITS)),
    ("results/digits/Linf/certificates/*", CERTIFY),
    ("results/digits/Linf/certificates/*", ("plot", "certified", LOG)),
    ("export/*", ("push", "export", "org/name")),
    ("export/*", ("export", NAME, "export", *DIGITS)),
    ("shards/digits/Linf/*/*", ("merge", NAME, *DIGITS, "--out", "shards")),
    ("shards/digits/Linf/*/*", ("eval", NAME, *DIGITS, "--shard", "0/2", "--out", "shards")),
    ("[gh].pt", ("convert", NAME, "converted", *DIGITS, "--std-model", "g.pt", "--rob-model", "h.pt")),
    ("images.npz", ("verify", NAME, "--data-dir", "images.npz", "--n", "1")),
    ("recipe.toml", ("train", "recipe.toml")),
]


def test_damaged_files(case):
    """A command that reads a damaged file says so in one sentence, or it could do without that file."""
    codes = dict.fromkeys((0, 1, 2), 0)
    for number, rng in cases("damaged files", 15 * len(READERS)):
        pattern, arguments = READERS[number % len(READERS)]
        folder = case()
        files = [path for path in sorted(folder.glob(pattern)) if path.is_file() and path.name != ".lock"]
        assert files, pattern
        damage(rng.choice(files), rng)
        before = snapshot(folder)
        told = run(arguments)
        assert_told(*told, (number, arguments))
        codes[told[0]] += 1
        assert_whole(folder, before, (number, arguments))
    assert codes[2] > 80
    assert codes[0] > 30


PROGRAM = "from adaptive_smoothing_zoo.cli import main; main()"


def start(arguments, **settings):
    """A process of its own."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **settings}
    finished = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=False, **settings)
    return finished.returncode, finished.stdout or b"", finished.stderr or b""


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


@pytest.mark.parametrize(
    ("arguments", "code", "message", "settings"),
    [
        (["eval", "nobody"], 2, b"no model 'nobody'", {}),
        (["eval", b"\xff\xfe"], 2, b"no model", {}),
        (["eval", NAME, *DIGITS, "--n", "x"], 2, b"not a valid integer", {}),
        (["eval", NAME, *DIGITS, "--out", "/dev/null/x"], 2, b"cannot write", {}),
        (["export", NAME, "exported", *DIGITS], 2, b"cannot write", {"preexec_fn": small_files}),
        (["leaderboard", b"folder\xff"], 0, b"", {"env": os.environ | {"PYTHONIOENCODING": "utf-8:strict"}}),
        (["list"], 2, b"No space left", {"stdout": "/dev/full"}),
        (["list"], 1, b"", {"stdout": "closed pipe"}),
        (["info", NAME, *DIGITS], 0, b"", {"env": os.environ | {"HOME": "/dev/null", "HF_HOME": "/dev/null/hf"}}),
    ],
)
def test_real_processes(tmp_path, arguments, code, message, settings):
    """What only a process of its own shows: its exit, its streams, and what is said after the end."""
    entries = tmp_path / os.fsdecode(b"folder\xff") / FOLDER
    entries.mkdir(parents=True)
    shutil.copy(Path(cli.__file__).parents[2] / "eval" / "results" / FOLDER / f"{NAME}.json", entries)
    settings = {"cwd": tmp_path, **settings}
    if settings.get("stdout") == "/dev/full":
        with open("/dev/full", "wb") as full:
            found = start(arguments, **settings | {"stdout": full})
    elif settings.get("stdout") == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
        found = start(arguments, **settings | {"stdout": writing})
        os.close(writing)
    else:
        found = start(arguments, **settings)
    assert found[0] == code, found
    assert message in found[2], found
    assert b"Traceback" not in found[2], found
    assert b"Exception ignored" not in found[2], found
    assert found[2].count(b"Error: ") == (code == 2), found
    assert not list(tmp_path.glob(".*")), found
