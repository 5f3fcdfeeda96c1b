"""The method of the papers, to be read in this order: mix, classifier, alpha, mixing_network, logit_maps."""
