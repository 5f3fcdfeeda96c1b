"""The method of the papers. Read it in this order: formula, alpha, mixing_network, logit_maps, classifier.

Separate from these: backbone (timm's interface), half_precision and smoothed_classifier (the earlier forms of the
formula).
"""
