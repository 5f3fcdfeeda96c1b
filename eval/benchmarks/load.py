"""Time and memory of loading a full-size published triplet: this package against RobustBench, on the same weights.

    python eval/benchmarks/load.py --folder runs/load_benchmark

Makes the weights (random, about 2.3 GB in each of the two formats) in FOLDER unless they are there: RobustBench's
three files by RobustBench's own classes, and ours from those by ``asz convert``'s function. Then each loader runs in a
process of its own, several times, with a warm file cache. Prints a table and writes ``FOLDER/load.json``.

The very first load of a file also computes its SHA-256 and is timed apart ("ours, first time"). Our loading maps the
file; weights are read when they are first used, which is why touching all of them and the first
forward pass are timed as well. Memory is the peak resident set of the process after that pass, which counts mapped
pages, above what ``import torch`` alone takes.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click

NAME, DATASET = "Bai2023Improving_edm", "cifar100"

MAKE = """
import torch
torch.Tensor.cuda = lambda self: self  # the constructor of RobustBench's BiT asks for a GPU
import adaptive_smoothing_zoo; adaptive_smoothing_zoo.register()
from pathlib import Path
from robustbench.model_zoo.architectures.comp_model import get_composite_model
from adaptive_smoothing_zoo.zoo.components import convert_triplet
from adaptive_smoothing_zoo.zoo.registry import find_entry
folder = Path({folder!r}) / "models" / {dataset!r} / "Linf"
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
model = get_composite_model("edm", {dataset!r})._comp_model
mixing = dict(model=model.policy_net.state_dict(), bn=model.bn.state_dict())
contents = (*(net.state_dict() for net in model.models), mixing)
paths = [folder / f"{name}.pt_m{{i}}.pt" for i in range(3)]
for path, content in zip(paths, contents):
    torch.save(content, path)
del model, contents
entry = find_entry({name!r}, {dataset!r}, "Linf")
convert_triplet(entry, dict(zip(("std_model", "rob_model", "alpha"), paths))).save_pretrained(Path({folder!r}) / "ours")
"""

COMMON = """
import json, resource, time
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
begin = time.perf_counter()
import torch
after_torch, torch_memory = time.perf_counter(), peak()
{load}
loaded, load_memory = time.perf_counter(), peak()
if {touch}:
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.sum()
touched = time.perf_counter()
with torch.no_grad():
    logits = model(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
print(json.dumps(dict(
    import_s=imported - after_torch, load_s=loaded - imported, touch_s=touched - loaded,
    forward_s=time.perf_counter() - touched, load_peak=load_memory - torch_memory, peak=peak() - torch_memory,
    weights=sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())),
    logits=logits[0, :5].tolist(),
)))
"""
LOADERS = {
    "ours": """
from adaptive_smoothing_zoo import load_model
imported = time.perf_counter()
model = load_model({name!r}, {folder!r} + "/ours", dataset={dataset!r}, threat_model="Linf")
""",
    "ours, RobustBench's files": """
from adaptive_smoothing_zoo import load_model
imported = time.perf_counter()
model = load_model({name!r}, {folder!r} + "/models", dataset={dataset!r}, threat_model="Linf")
""",
    "RobustBench": """
from adaptive_smoothing_zoo.zoo import stand_in as autoattack
import sys
sys.modules.setdefault("autoattack", autoattack)
sys.modules.setdefault("autoattack.state", autoattack.state)
from robustbench import load_model
torch.Tensor.cuda = lambda self: self  # the constructor of RobustBench's BiT asks for a GPU
imported = time.perf_counter()
model = load_model({name!r}, {folder!r} + "/models", dataset={dataset!r}, threat_model="Linf")
""",
}


def run(program: str, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", program]
    environment = {**os.environ, "HF_ASSETS_CACHE": str(cache)}  # where hashed files are remembered
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/load_benchmark"))
@click.option("--repeats", default=3, show_default=True)
def main(folder: Path, repeats: int) -> None:
    folder = folder.resolve()
    values = {"folder": str(folder), "name": NAME, "dataset": DATASET}
    if not (folder / "ours" / "config.json").is_file():
        click.echo("making the weights", err=True)
        made = subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE.format(**values)], stdout=subprocess.DEVNULL)
        if made.returncode:
            raise click.ClickException("the weights could not be made")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    first = run(COMMON.format(load=LOADERS["ours"].format(**values), touch=False), folder / "cache")
    runs: dict[str, list[dict[str, Any]]] = {"ours, first time": [{**first, "touch_s": float("nan")}]}
    runs |= {loader: [] for loader in LOADERS}
    for _ in range(repeats):
        for loader, code in LOADERS.items():
            program = {touch: COMMON.format(load=code.format(**values), touch=touch) for touch in (False, True)}
            plain, touching = (run(program[touch], folder / "cache") for touch in (False, True))
            runs[loader].append({**plain, "touch_s": touching["touch_s"]})
            click.echo(f"{loader}: {runs[loader][-1]}", err=True)
    expected = runs["RobustBench"][0]["logits"]
    differences = (abs(a - b) for found in runs.values() for a, b in zip(found[0]["logits"], expected, strict=True))
    columns = {
        "import, s": lambda r: f"{r['import_s']:.2f}",
        "to a ready module, s": lambda r: f"{r['load_s']:.3f}",
        "touching all weights, s": lambda r: f"{r['touch_s']:.2f}",
        "first image, s": lambda r: f"{r['forward_s']:.2f}",
        "peak memory / weights": lambda r: f"{r['peak'] / r['weights']:.2f}",
    }
    click.echo("| loader | " + " | ".join(columns) + " |\n" + "| --- " * (len(columns) + 1) + "|")
    table = {}
    for loader, found in runs.items():
        table[loader] = {key: median(r[key] for r in found) for key in found[0] if key != "logits"}
        click.echo(f"| {loader} | " + " | ".join(show(table[loader]) for show in columns.values()) + " |")
    ratio = table["RobustBench"]["load_s"] / table["ours"]["load_s"]
    largest = max(differences)
    machine = f"{platform.machine()}, torch {version('torch')}, robustbench {version('robustbench')}"
    click.echo(f"{ratio:.0f} times faster; logits differ by at most {largest:.1e}; {machine}; medians of {repeats}")
    record = {"table": table, "runs": runs, "ratio": ratio, "largest_logit_difference": largest, "machine": machine}
    (folder / "load.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
