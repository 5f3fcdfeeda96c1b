"""All attacks of the package. A new one is a file that registers it, and its line here."""

from adaptive_smoothing_zoo.attacks import adaptive
from adaptive_smoothing_zoo.attacks.autoattack import apgd, fab, square

ATTACK_FILES = (apgd, fab, square, adaptive)
