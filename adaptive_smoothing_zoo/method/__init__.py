"""The method of the papers. Read it in this order: formula, alpha, mixing_network, logit_maps, classifier.

Apart from it stand backbone (timm's interface), half_precision and smoothed_classifier (the forms that the formula was
chosen from).
"""
