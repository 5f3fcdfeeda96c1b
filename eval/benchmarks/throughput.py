"""Passes per second of a full-size published triplet with random weights: this package against RobustBench's class.

    python eval/benchmarks/throughput.py --batch-sizes 40,128,256,512

Both have the same weights. Ours runs with weight standardization folded and in channels_last. Forward, and forward with
the gradient of a loss to the images (what an attack pays), in float32, TF32 and bfloat16 autocast. Prints a table and
writes a JSON file. It is meant for a GPU.
"""

import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor, nn

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.triplet import load_triplet, meta_triplet


def pair(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """RobustBench's composite and ours, with the same random weights."""
    adaptive_smoothing_zoo.register()
    if device.type == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # the constructor of RobustBench's BiT asks for a GPU
    from robustbench.model_zoo.architectures.comp_model import get_composite_model

    torch.manual_seed(0)
    theirs = get_composite_model("edm", "cifar100")
    inner = theirs._comp_model
    entry = find_entry("Bai2023Improving_edm", "cifar100", "Linf")
    skeleton = meta_triplet(entry)
    parts = {
        "std_model": convert_base_net(inner.models[0].state_dict(), entry.std_model, skeleton.std_model, "g"),
        "rob_model": convert_base_net(inner.models[1].state_dict(), entry.rob_model, skeleton.rob_model, "h"),
        "alpha": convert_mixing_network(
            {"model": inner.policy_net.state_dict(), "bn": inner.bn.state_dict()}, skeleton.alpha, "the mixing network"
        ),
    }
    state = {f"{part}.{key}": value.clone() for part, found in parts.items() for key, value in found.items()}
    ours = load_triplet(entry, state)
    fold_weight_standardization(ours)
    theirs = theirs.eval().requires_grad_(False).to(device)
    return theirs, ours.to(device).to(memory_format=torch.channels_last)


def forward(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def forward_backward(model: nn.Module, images: Tensor) -> None:
    images = images.detach().requires_grad_()
    torch.autograd.grad(model(images).amax(dim=1).sum(), images)


def seconds(run: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Median time of one call after two to warm up."""
    times = []
    for i in range(repeats + 2):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= 2:
            times.append(time.perf_counter() - begin)
    return median(times)


@click.command()
@click.option("--batch-sizes", default="40,128,256,512", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--precisions", default="float32,tf32,bfloat16", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/throughput.json"), show_default=True)
def main(batch_sizes: str, repeats: int, device: str, precisions: str, out: Path) -> None:
    chosen = torch.device(device)
    theirs, ours = pair(chosen)
    check = torch.rand(2, 3, 32, 32, device=chosen)
    with torch.no_grad(), float32_precision(tf32=False):
        difference = float((theirs(check) - ours(check)).abs().max())
    click.echo(f"the same function: logits differ by at most {difference:.1e}", err=True)
    rows: list[dict[str, Any]] = []
    click.echo("| precision | pass | batch | RobustBench, images/s | ours, images/s | ratio |")
    click.echo("| --- | --- | --- | --- | --- | --- |")
    for precision in precisions.split(","):
        for name, step in (("forward", forward), ("forward and backward", forward_backward)):
            for size in map(int, batch_sizes.split(",")):
                images = torch.rand(size, 3, 32, 32, device=chosen)
                rates = []
                for model in (theirs, ours):
                    lowered = torch.autocast(chosen.type, torch.bfloat16, enabled=precision == "bfloat16")
                    try:
                        with float32_precision(tf32=precision == "tf32"), lowered:
                            rates.append(size / seconds(lambda m=model, s=step, x=images: s(m, x), chosen, repeats))
                    except torch.OutOfMemoryError:
                        rates.append(float("nan"))
                        torch.cuda.empty_cache()
                rows.append(
                    {"precision": precision, "pass": name, "batch": size, "robustbench": rates[0], "ours": rates[1]}
                )
                click.echo(
                    f"| {precision} | {name} | {size} | {rates[0]:.1f} | {rates[1]:.1f} | {rates[1] / rates[0]:.2f} |"
                )
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU"
    versions = {package: version(package) for package in ("torch", "robustbench", "adaptive-smoothing-zoo")}
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"device": name, "versions": versions, "largest_logit_difference": difference, "rows": rows}
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
