"""Find the best mix of two nets without training, save it, load it again, and evaluate it.

    python docs/examples/tune_your_own_mix.py [--short]
    python docs/examples/tune_your_own_mix.py --data-dir DATA    # two ResNet-18 for CIFAR-10; better on a GPU

By default the two nets are those of a digits triplet, which need no download.
"""

# %% Options
import argparse
import tempfile

from adaptive_smoothing_zoo import ThreatModel, evaluate, load_base_net, load_model, tune
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.tuning.measure import GapAttack

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--short", action="store_true", help="fewer images, fewer steps")
parser.add_argument("--data-dir", help="CIFAR-10: torchvision's folder, downloaded if missing, or an .npz file")
options = parser.parse_args()

# %% Two nets, and images that neither was trained on
if options.data_dir:
    std_model = load_base_net("pyautoattack_resnet18")
    rob_model = load_base_net("cifar10_resnet18_nfgsm")
    dataset, eps, data = "cifar10", "8/255", load_data("cifar10", data_dir=options.data_dir)
    held_out = Examples(
        images=data.images[5000:6000], labels=data.labels[5000:6000], source="test images 5,000 to 5,999"
    )
    test = data.first(128)  # none of those that chose the mix
else:
    triplet = load_model("Demo2026Constant", dataset="digits")
    std_model, rob_model = triplet.std_model, triplet.rob_model  # any two modules of yours
    dataset, eps, held_out, test = "digits", "1/5", load_data("digits", "validation"), load_data("digits")
if options.short:
    held_out, test = held_out.first(60), test.first(16)
threat = ThreatModel("Linf", eps)

# %% The best mix that keeps 90 % of the robust net's robust images
attack = GapAttack(iterations=10, targets=1) if options.short else GapAttack()
tuned = tune(std_model, rob_model, held_out.images, held_out.labels, threat, robust=0.9, attack=attack)
chosen = tuned.chosen
print(f"alpha {chosen.alpha:.4f}: {chosen.clean:.1%} clean, at least {chosen.robust:.1%} robust on held-out images")

# %% Save it, and load it without the code that made it
with tempfile.TemporaryDirectory() as folder:
    shape = tuple(test.images.shape[1:])
    tuned.model.save_pretrained(folder, image_shape=shape, name="MyMix", dataset=dataset, eps=eps)
    mix = load_model(folder)

# %% Evaluate it; the numbers above chose the mix and flatter it
name = "a short attack" if options.short else "AutoAttack"
settings = AttackSettings(attacks=("apgd-ce",)).limited(iterations=5) if options.short else AttackSettings()
found = evaluate(mix, test.images, test.labels, threat=threat, settings=settings)
print(f"on {len(test)} test images: {found.clean_accuracy:.1%} clean, {found.robust_accuracy:.1%} after {name}")
