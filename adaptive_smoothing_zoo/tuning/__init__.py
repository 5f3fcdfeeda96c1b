"""The best mix of two given nets, found without training from three tables of logits."""
