"""Compare the verdicts of two runs on the same examples.

python eval/compare_verdicts.py A.examples.npz B.examples.npz
"""

from pathlib import Path

import click
import numpy as np


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
    for i in np.flatnonzero(a["robust"][in_a] != b["robust"][in_b]):
        click.echo(
            f"  example {shared[i]}: broken by {a['broken_by'][in_a][i] or '-'} / {b['broken_by'][in_b][i] or '-'}"
        )


if __name__ == "__main__":
    main()
