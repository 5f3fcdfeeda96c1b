"""What ``predict`` saves over ``forward(...).argmax(1)``: passes of g that are skipped, and time.

python eval/benchmarks/predict.py Demo2026Constant --dataset digits
"""

import time
from statistics import median

import click
import torch
from torch import Tensor

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.data import load_data


@click.command()
@click.argument("name")
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--threat-model", default="Linf", show_default=True)
@click.option("--n", type=int, default=None)
@click.option("--data-dir", default=None)
@click.option("--repeats", type=int, default=7, show_default=True)
def main(name: str, dataset: str, threat_model: str, n: int | None, data_dir: str | None, repeats: int) -> None:
    model = load_model(name, dataset=dataset, threat_model=threat_model)
    images = load_data(dataset, data_dir=data_dir).first(n).images
    seen = 0

    def count(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(arguments[0])

    # The stem runs once for each image that g sees, whichever way g is called.
    hook = model.std_model.stem.register_forward_pre_hook(count)
    with torch.no_grad():
        expected, labels = model(images).argmax(1), model.predict(images)
    hook.remove()
    if not torch.equal(labels, expected):
        raise click.ClickException("predict and forward disagree")
    skipped = 2 - seen / len(images)
    seconds: dict[str, list[float]] = {"forward": [], "predict": []}
    for _ in range(repeats):  # interleaved, so that a busy machine slows both alike
        for what in seconds:
            start = time.perf_counter()
            with torch.no_grad():
                model.predict(images) if what == "predict" else model(images).argmax(1)
            seconds[what].append(time.perf_counter() - start)
    forward, predict = median(seconds["forward"]), median(seconds["predict"])
    click.echo(
        f"{model.entry.key}: the same {len(images)} labels; g skipped for {100 * skipped:.1f} % of the images; "
        f"forward {1e3 * forward:.1f} ms, predict {1e3 * predict:.1f} ms ({forward / predict:.2f} times faster)"
    )


if __name__ == "__main__":
    main()
