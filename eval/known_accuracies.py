"""Write what is recorded of the zoo's models into the package, from where ``asz list`` and ``asz info`` take it.

python eval/known_accuracies.py
"""

import json
from pathlib import Path

from adaptive_smoothing_zoo.publishing.known import SHIPPED, recorded
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.zoo.registry import list_models

RESULTS = Path(__file__).parent / "results"


def summary() -> str:
    """The text of the package's file."""
    found = {entry.key: recorded(RESULTS, entry) for entry in list_models()}
    return json.dumps({key: to_json(known) for key, known in found.items() if known is not None}, indent=2) + "\n"


if __name__ == "__main__":
    write_text(SHIPPED, summary())
