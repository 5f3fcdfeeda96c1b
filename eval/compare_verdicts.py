"""Compare the verdicts of two runs on the same examples.

python eval/compare_verdicts.py A.examples.npz B.examples.npz
"""

from pathlib import Path

import click
import numpy as np
from scipy.stats import binomtest, bootstrap


def difference(first: np.ndarray, second: np.ndarray) -> str:
    """The paired difference of two shares of the same examples, with its 95 % interval and the exact sign test.

    Args:
        first, second: (N,) bool.
    """
    ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
    if ahead + behind == 0:
        return "difference: none, example by example"
    gains = first.astype(float) - second
    found = bootstrap((gains,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    chance = binomtest(ahead, ahead + behind).pvalue
    return (
        f"difference: {100 * gains.mean():+.2f} points (95 % {100 * low:+.2f} to {100 * high:+.2f}, bootstrap); "
        f"{ahead} examples ahead, {behind} behind, sign test p = {chance:.2g}"
    )


@click.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
def main(first: Path, second: Path) -> None:
    a, b = np.load(first), np.load(second)
    shared, in_a, in_b = np.intersect1d(a["index"], b["index"], return_indices=True)
    if not np.array_equal(a["label"][in_a], b["label"][in_b]):
        raise click.ClickException("the two files are not about the same examples: their labels differ")
    for name in ("clean_correct", "robust"):
        x, y = a[name][in_a], b[name][in_b]
        click.echo(
            f"{name}: {100 * x.mean():.2f} % and {100 * y.mean():.2f} %, {int((x != y).sum())} differ of {len(shared)}"
        )
    click.echo(difference(a["robust"][in_a], b["robust"][in_b]))
    for i in np.flatnonzero(a["robust"][in_a] != b["robust"][in_b]):
        click.echo(
            f"  example {shared[i]}: broken by {a['broken_by'][in_a][i] or '-'} / {b['broken_by'][in_b][i] or '-'}"
        )


if __name__ == "__main__":
    main()
