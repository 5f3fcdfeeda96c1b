"""How many samples "certified at radius r" takes by adaptive sampling, against a fixed number for every example.

python eval/benchmarks/certify_at_radius.py --sigma 0.25 --n 100000 --n-examples 100

The net is h of a digits triplet, smoothed. One run with a fixed number of samples answers for every radius; each radius
then has an adaptive run, with the same failure probability and at most as many samples.
"""

import time

import click

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.certification import certify, certify_at_radius, mix_certificates
from adaptive_smoothing_zoo.data import load_data


@click.command()
@click.option("--name", default="Demo2026Constant", show_default=True)
@click.option("--sigma", type=float, default=0.25, show_default=True)
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Of a mix with the smoothed h.")
@click.option("--bound", default="theorem5", show_default=True)
@click.option("--votes", type=click.Choice(["hard", "soft"]), default="hard", show_default=True)
@click.option("--radius", "radii", type=float, multiple=True, default=(0.1, 0.25, 0.5), show_default=True)
@click.option("--n", type=int, default=100_000, show_default=True)
@click.option("--n-examples", type=int, default=100, show_default=True)
def main(
    name: str,
    sigma: float,
    alpha: float,
    bound: str,
    votes: str,
    radii: tuple[float, ...],
    n: int,
    n_examples: int,
) -> None:
    model = load_model(name, dataset="digits").rob_model
    examples = load_data("digits").first(n_examples)
    data = (model, examples.images, examples.labels)
    settings = {"sigma": sigma, "n": n, "votes": votes}
    start = time.perf_counter()
    fixed = mix_certificates(certify(*data, **settings), alpha, sigma, bound=bound)
    seconds = time.perf_counter() - start
    click.echo(
        f"{name}, sigma {sigma}, alpha {alpha} ({bound}), {votes} votes, {n_examples} examples; fixed: "
        f"{n + 100} samples each, {seconds:.1f} s"
    )
    for radius in radii:
        start = time.perf_counter()
        found = certify_at_radius(*data, radius=radius, alpha=alpha, bound=bound, **settings)
        seconds = time.perf_counter() - start
        mean = found.samples.mean()
        click.echo(
            f"radius {radius:g}: certified accuracy {100 * float(fixed.certified_accuracy(radius)):.2f} % fixed, "
            f"{100 * float(found.certified_accuracy(radius)):.2f} % adaptive; {mean:.0f} samples each "
            f"({(n + 100) / mean:.1f} times fewer), {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
