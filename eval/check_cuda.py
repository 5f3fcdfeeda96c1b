"""Is everything right on this GPU, and how fast is it? At most 12 minutes on one.

    python eval/check_cuda.py --data CIFAR
    python eval/check_cuda.py --only parity,resume
    python eval/check_cuda.py --device cpu --tiny

CIFAR is a folder or an .npz that ``--data-dir`` of ``asz eval`` takes; without it random images stand in. It needs the
package with its extras (``pip install -e '.[all]'``). Each part is timed, and its result is written at once: a line of
``OUT/check_cuda.jsonl``, of which ``OUT/check_cuda.md`` is the page. A part that fails does not stop the others. Bars
of speed are judged on a GPU alone. Exit code 1 if a part fails or misses a bar.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import click
import torch
from cuda_checks import correct, report, speed
from cuda_checks.parts import PARTS, Place

from adaptive_smoothing_zoo.machine.devices import pick_device

MODULES = (correct, speed)  # of the parts


def run(name: str, place: Place) -> dict[str, Any]:
    """A part's record, whatever happens in it."""
    begin = time.perf_counter()
    record: dict[str, Any] = {"part": name, "outcome": "done", "rows": [], "bars": []}
    try:
        found = PARTS[name](place)
        record |= {"rows": found.rows, "bars": [bar.said(place) for bar in found.bars]}
    except Exception as error:  # the other parts still run
        traceback.print_exc()
        record["outcome"] = f"failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    gc.collect()
    if place.on_cuda:
        torch.cuda.empty_cache()
    return record | {"seconds": time.perf_counter() - begin}


def _names(text: str | None) -> list[str]:
    names = [] if text is None else text.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        raise click.BadParameter(f"unknown part {unknown[0]}; known: {', '.join(PARTS)}")
    return names


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="As little of everything as runs through every line.")
@click.option("--only", default=None, metavar="PARTS", help="separated by commas; all if not given")
@click.option("--skip", default=None, metavar="PARTS", help="likewise")
@click.option("--data", type=click.Path(exists=True, path_type=Path), default=None, help="CIFAR-10")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/check_cuda"), show_default=True)
@click.option("--minutes", default=12.0, show_default=True, help="No part begins after these.")
def main(
    device: str, tiny: bool, only: str | None, skip: str | None, data: Path | None, out: Path, minutes: float
) -> None:
    begin, chosen, skipped = time.perf_counter(), _names(only) or list(PARTS), _names(skip)
    out.mkdir(parents=True, exist_ok=True)
    place = Place(pick_device(device), tiny, data, out / time.strftime("files-%Y%m%d-%H%M%S"))
    place.folder.mkdir()
    about, good = report.about(place), True
    for name in (each for each in chosen if each not in skipped):
        if time.perf_counter() - begin > 60 * minutes:
            click.echo(f"{name}: not begun, the {minutes:g} minutes are over; --only {name} runs it", err=True)
            good = False
            continue
        record = run(name, place)
        report.append(out / "check_cuda.jsonl", record | {"about": about})
        click.echo(f"{name}: {record['outcome']}, {record['seconds']:.1f} s")
        for what, value in record["rows"]:
            click.echo(f"    {what}: {value}")
        for bar in record["bars"]:
            click.echo(f"    {bar['what']}: {bar['value']:.3g}, {bar['limit']}: {report.JUDGED[bar['met']]}")
        good = good and record["outcome"] == "done" and all(bar["met"] is not False for bar in record["bars"])
    click.echo(f"written to {out / 'check_cuda.md'}; {time.perf_counter() - begin:.0f} s")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
