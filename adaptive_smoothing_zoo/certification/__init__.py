"""What no attack can break: certified radii, the bounds behind them, and their logs."""

from adaptive_smoothing_zoo.certification.at_radius import certify_at_radius
from adaptive_smoothing_zoo.certification.bounds import (
    BettingTest,
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein_lower,
    empirical_bernstein_upper,
    split_failure_probability,
)
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.certify_mix import certify_lipschitz, certify_mix
from adaptive_smoothing_zoo.certification.local_lipschitz import LocalLipschitzEstimate, estimate_local_lipschitz
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates, mix_certificates, read_log
from adaptive_smoothing_zoo.certification.plots import (
    CertifiedCurve,
    certified_curve,
    mix_curves,
    plot_certified_curves,
)
from adaptive_smoothing_zoo.certification.radii import (
    BOUNDS,
    cohen_radius,
    gap_radius,
    gaussian_lipschitz,
    lipschitz_allowed,
    lipschitz_logit_radius,
    lipschitz_radius,
    margin_needed,
    probability_needed,
    sharp_smoothing_radius,
    smoothing_ceiling,
    smoothing_radius,
    softmax_lipschitz,
    vote_needed,
)
from adaptive_smoothing_zoo.certification.running import CertifyProgress

__all__ = [
    "ABSTAIN",
    "BOUNDS",
    "BettingTest",
    "Certificates",
    "CertifiedCurve",
    "CertifyProgress",
    "LocalLipschitzEstimate",
    "betting_lower",
    "betting_upper",
    "certified_curve",
    "certify",
    "certify_at_radius",
    "certify_lipschitz",
    "certify_mix",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "cohen_radius",
    "empirical_bernstein_lower",
    "empirical_bernstein_upper",
    "estimate_local_lipschitz",
    "gap_radius",
    "gaussian_lipschitz",
    "lipschitz_allowed",
    "lipschitz_logit_radius",
    "lipschitz_radius",
    "margin_needed",
    "mix_certificates",
    "mix_curves",
    "plot_certified_curves",
    "probability_needed",
    "read_log",
    "sharp_smoothing_radius",
    "smoothing_ceiling",
    "smoothing_radius",
    "softmax_lipschitz",
    "split_failure_probability",
    "vote_needed",
]
