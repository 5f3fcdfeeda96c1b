"""An evaluation that is to be killed: it says when it is in its second attack, and waits there."""

import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from adaptive_smoothing_zoo.evaluation import Evaluation, Progress, evaluate
from cuda_checks.parts import Place, digits

LENGTHS = {"iterations": 10, "queries": 100}


def whole(device: str, n: int, **more: Any) -> Evaluation:
    """A short evaluation of so many digits."""
    subject = digits(Place(torch.device(device), True, None, Path()), n)
    settings = subject.settings(batch_size=8).limited(**LENGTHS)
    images, labels = subject.images, subject.labels
    return evaluate(subject.model, images, labels, threat=subject.threat, settings=settings, device=device, **more)


def _wait(progress: Progress) -> None:
    if progress.attack == "apgd-t" and progress.done < progress.total:
        click.echo("in the second attack")
        sys.stdout.flush()
        time.sleep(600)


if __name__ == "__main__":
    whole(sys.argv[1], int(sys.argv[2]), state=sys.argv[3], flush_seconds=0.0, on_progress=_wait)
