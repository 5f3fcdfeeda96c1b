"""Fine-tune a triplet on another task: a linear head on both nets' features first, then one of the nets with it.

    python docs/examples/fine_tune_a_backbone.py [--short]

The task is to tell odd digits from even ones. Nothing is downloaded.
"""

# %% Options
import argparse

import torch
import torch.nn.functional as F
from torch.optim import AdamW

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.data import load_data

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--short", action="store_true", help="fewer images, fewer epochs")
short = parser.parse_args().short

# %% A triplet with a fresh head for two classes; its nets are frozen
torch.manual_seed(0)
model = load_model("Demo2026Adaptive", dataset="digits")
model.reset_classifier(2)
train, test = load_data("digits", "train"), load_data("digits")
if short:
    train, test = train.first(200), test.first(100)
labels, expected = train.labels % 2, test.labels % 2


def accuracy():
    """Accuracy on the test images."""
    return (model.predict(test.images) == expected).double().mean().item()


# %% The head alone: one pass of the nets is enough
features = model.forward_features(train.images).detach()
optimizer = AdamW(model.head.parameters(), lr=0.01)
for _ in range(50 if short else 200):
    optimizer.zero_grad()
    F.cross_entropy(model.forward_head(features), labels).backward()
    optimizer.step()
print(f"linear head: {accuracy():.1%} of the test images")

# %% Then the accurate net with it, with a small learning rate
model.std_model.requires_grad_(True)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = AdamW(trained, lr=1e-4)
for _ in range(1 if short else 5):
    for batch in torch.randperm(len(labels)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(train.images[batch]), labels[batch]).backward()
        optimizer.step()
print(f"fine-tuned: {accuracy():.1%} of the test images")

# %% Save and load it like any triplet
# model.save_pretrained("odd-or-even")
# model = load_model("odd-or-even")
