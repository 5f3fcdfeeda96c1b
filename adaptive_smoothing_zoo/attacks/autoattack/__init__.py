"""AutoAttack: the protocol, its four attacks and the two engines that run it."""
