"""Load a triplet and attack it: g alone, h alone, and the mix of both.

    python docs/examples/load_and_attack.py [--short]

Runs on scikit-learn's digits, which need no download: a few minutes, --short some seconds.
"""

# %% Options
import argparse

from adaptive_smoothing_zoo import evaluate, load_model
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.data import load_data

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--short", action="store_true", help="fewer images, fewer steps")
short = parser.parse_args().short

# %% Load: an nn.Module in eval mode, on images in [0, 1]
model = load_model("Demo2026Adaptive", dataset="digits")
test = load_data("digits").first(16 if short else 100)
print(f"{model.entry.name}: {model.entry.description}")

# %% Look: log-probabilities, and the weight of the robust net for each image
log_probabilities, alpha = model(test.images), model.alpha_of(test.images)
clean = (log_probabilities.argmax(dim=1) == test.labels).double().mean()
print(f"clean accuracy {clean:.1%}, alpha from {alpha.min():.2f} to {alpha.max():.2f}")

# %% Attack: the standard protocol of AutoAttack, or a short one that its records never call standard
attack = "a short attack" if short else "AutoAttack"
settings = AttackSettings(attacks=("apgd-ce",)).limited(iterations=5) if short else AttackSettings()
for name, net in (("g", model.std_model), ("h", model.rob_model), ("the mix", model)):
    found = evaluate(net, test.images, test.labels, threat=model.entry.threat, settings=settings)
    print(f"{name}: {found.clean_accuracy:.1%} clean, {found.robust_accuracy:.1%} after {attack}")
