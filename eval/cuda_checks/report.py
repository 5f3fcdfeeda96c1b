"""Results as they come: a line of JSON for each part, and a page made of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions
from cuda_checks.parts import Place

JUDGED = {True: "met", False: "**missed**", None: "not judged here"}


def about(place: Place) -> dict[str, Any]:
    """The machine and what runs on it."""
    found: dict[str, Any] = {"device": device_name(str(place.device)), "versions": installed_versions()}
    if place.on_cuda:
        found |= {"driver": _driver(), "cuda": torch.version.cuda}
    return found | {"tiny": place.tiny}


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line, and write the page anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.with_suffix(".md").write_text(page(lines), encoding="utf-8")


def page(records: list[dict[str, Any]]) -> str:
    """In Markdown the parts that ran where and as the last one did; of a part that ran several times, the last run."""
    machine = records[-1]["about"]
    latest = {record["part"]: record for record in records if record["about"] == machine}
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    driver = f", driver {machine['driver']}, CUDA {machine['cuda']}" if "driver" in machine else ""
    tiny = "; tiny: every line runs, no number counts" if machine["tiny"] else ""
    lines = [
        f"{machine['device']}{driver}; {versions}{tiny}",
        "",
        "| bar | value | limit | |",
        "| --- | --: | --- | --- |",
    ]
    for record in latest.values():
        for bar in record["bars"]:
            lines.append(f"| {bar['what']} | {bar['value']:.3g} | {bar['limit']} | {JUDGED[bar['met']]} |")
    lines += ["", "| part | | |", "| --- | --- | --- |"]
    for name, record in latest.items():
        lines.append(f"| {name} | {record['outcome']} | {record['seconds']:.1f} s |")
        lines += [f"| | {what} | {value} |" for what, value in record["rows"]]
    return "\n".join([*lines, ""])
