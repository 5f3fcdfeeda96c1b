"""Give recorded results the identity of their model in place of the older hashes of weights.

An older hash knew the tensors, but neither alpha's numbers nor the logit maps. So a record gets its identity only if
(1) the older hash is that of the model which its name gives today, and (2) the entry in the commit that measured it
agrees with today's in all that decides outputs. Where that commit is not known or has no such entry, the first one
with both record and entry counts. What cannot be shown is left as it is and listed.

    python eval/migrate_identity.py eval/results eval/experiments
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import identity_of, tensor_bytes
from adaptive_smoothing_zoo.storage.provenance import tensors_sha256
from adaptive_smoothing_zoo.storage.schema import parse, to_json
from adaptive_smoothing_zoo.zoo.entry import Entry
from adaptive_smoothing_zoo.zoo.triplet import Triplet

DECIDING = ("num_classes", "image_shape", "std_model", "rob_model", "std_map", "rob_map", "alpha", "head")


class Refused(Exception):
    """A record whose model cannot be shown to be today's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    refused = 0
    for folder in parser.parse_args().folders:
        for path in sorted(folder.rglob("*.json")):
            try:
                if migrated := migrate(path):
                    write_text(path, json.dumps(migrated, indent=2) + "\n")
                    sys.stdout.write(f"migrated {path}\n")
            except Refused as why:
                refused += 1
                sys.stdout.write(f"left alone {path}: {why}\n")
    sys.exit(1 if refused else 0)


def migrate(path: Path) -> dict[str, Any] | None:
    """The record with an identity; None if there is nothing to do.

    Raises:
        Refused: its model cannot be shown to be today's.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        return None
    old = next((key for key in ("weights_sha256", "model_sha256") if key in record), None)
    if old is None:
        return None
    model = model_of(path, record)
    check_entry(path, record, model.entry)
    if old == "weights_sha256":
        if record[old] != tensors_sha256(model.state_dict()):
            raise Refused("it was measured with other weights than today's")
        name, identity = "identity", identity_of(model)
    else:
        parts = [model, *(net.voter for net in model.modules() if isinstance(net, GaussianSmoothed))]
        found = next((part for part in parts if sampled_sha256(part) == record[old]), None)
        if found is None:
            raise Refused("it was sampled from another net than today's")
        name, identity = "model", identity_of(found)
    return {
        (name if key == old else key): (to_json(identity) if key == old else value) for key, value in record.items()
    }


def model_of(path: Path, record: dict[str, Any]) -> Triplet:
    """The triplet of a record, or of the settings of a log, which the names of file and folders tell."""
    name = record["model"] if "dataset" in record and isinstance(record.get("model"), str) else path.name.split(".")[0]
    folders = path.parent.parts
    dataset = record.get("dataset") or next((part for part in folders if part in ("digits", "cifar10")), "")
    threat_model = record.get("threat_model") or next((part for part in folders if part in ("Linf", "L2")), "Linf")
    return loaded(name, dataset, threat_model)


@cache
def loaded(name: str, dataset: str, threat_model: str) -> Triplet:
    try:
        return load_model(name, dataset=dataset, threat_model=threat_model)
    except KeyError as error:
        raise Refused(str(error)) from error


def check_entry(path: Path, record: dict[str, Any], entry: Entry) -> None:
    """Raise Refused unless the entry, when the record was measured, was today's in all that decides outputs."""
    file = f"adaptive_smoothing_zoo/zoo/entries/{entry.dataset}/{entry.threat_model}/{entry.name}.json"
    commit = commit_of(path, record, file)
    then = earlier(entry, json.loads(git("show", f"{commit}:{file}")), commit)
    for key in DECIDING:
        if getattr(then, key) != getattr(entry, key):
            raise Refused(f"its entry had another {key} in commit {commit[:12]}")


def commit_of(path: Path, record: dict[str, Any], file: str) -> str:
    """The commit whose entry ``file`` the record is about."""
    measured = str(record.get("commit")).removesuffix(" with local changes")
    if re.fullmatch(r"[0-9a-f]{7,40}", measured) and exists(measured, file):
        return measured
    recorded = path.resolve().relative_to(git("rev-parse", "--show-toplevel").strip()).as_posix()
    commits = git("log", "--reverse", "--format=%H", "--", f":(top){recorded}", f":(top){file}").split()
    both = (commit for commit in commits if exists(commit, recorded) and exists(commit, file))
    if (first := next(both, None)) is None:
        raise Refused("no commit has both it and its entry")
    return first


def earlier(entry: Entry, then: dict[str, Any], commit: str) -> Entry:
    """The entry with what decided outputs in an older file; keys that the file lacks had today's defaults."""
    rest = {key: value for key, value in to_json(entry).items() if key not in DECIDING}
    try:
        return parse(Entry, rest | {key: then[key] for key in DECIDING if key in then}, f"its entry in {commit[:12]}")
    except ConfigError as error:
        raise Refused(str(error)) from error


def exists(commit: str, file: str) -> bool:
    """Whether a commit is known and has a file."""
    return subprocess.run(["git", "cat-file", "-e", f"{commit}:{file}"], capture_output=True).returncode == 0


def git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if run.returncode:
        raise Refused(f"git {arguments[0]} says: {run.stderr.strip()}")
    return run.stdout


def sampled_sha256(model: nn.Module) -> str:
    """The older digest in the settings of certification logs."""
    structure = re.sub(r" at 0x[0-9a-f]+", "", f"{type(model).__qualname__}\n{model!r}")
    digest = sha256(structure.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(tensor_bytes(value))
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
