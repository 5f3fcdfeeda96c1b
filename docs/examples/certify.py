"""Certified l_2 radii of a mix: without sampling, by sampling, and by several bounds.

    python docs/examples/certify.py [--short] [--figure certified.png]

Runs on scikit-learn's digits, which need no download.
"""

# %% Options
import argparse

from adaptive_smoothing_zoo import certify, load_model
from adaptive_smoothing_zoo.certification import (
    CertifiedCurve,
    certify_lipschitz,
    mix_certificates,
    plot_certified_curves,
)
from adaptive_smoothing_zoo.data import load_data

RADII = (0.0, 0.1, 0.25, 0.5)
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--short", action="store_true", help="fewer images, fewer samples")
parser.add_argument("--figure", help="where to draw certified accuracy against the radius")
options = parser.parse_args()


def show(name, certificates):
    """Print the share of images that are right and certified at each radius."""
    shares = ", ".join(f"{share:.1%}" for share in certificates.certified_accuracy(RADII))
    print(f"{name}: {shares} at radii {RADII}; average radius {certificates.average_certified_radius():.3f}")
    return certificates


# %% A mix whose h is Lipschitz: the radius follows from h's logits, nothing is sampled
model = load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2")
test = load_data("digits").first(60) if options.short else load_data("digits")
by_bound = {bound: certify_lipschitz(model, test.images, test.labels, bound=bound) for bound in ("theorem4", "sharp")}
for bound, certificates in by_bound.items():
    show(f"Lipschitz h, {bound}", certificates)

# %% Randomized smoothing of any net: each image takes n noisy passes
sigma, n = 0.25, 1000 if options.short else 10_000
h = load_model("Demo2026Constant", dataset="digits").rob_model
few = test.first(5 if options.short else 50)
smoothed = show(f"smoothed h, n = {n}", certify(h, few.images, few.labels, sigma=sigma, n=n))

# %% Every mix of any g with that smoothed h has certificates, without another sample
for alpha in (0.9, 0.7):
    show(f"mix, alpha {alpha}, theorem5", mix_certificates(smoothed, alpha=alpha, sigma=sigma, bound="theorem5"))

# %% Draw
if options.figure:
    curves = [CertifiedCurve(label=bound, certificates=found, jumps=True) for bound, found in by_bound.items()]
    plot_certified_curves(curves).figure.savefig(options.figure)
    print(f"wrote {options.figure}")
