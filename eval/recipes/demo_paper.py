"""What the demonstration triplets cite: the method's paper, without passing for its models."""

from adaptive_smoothing_zoo.zoo.entry import Paper

PAPER = Paper(
    title="Demonstration of adaptive smoothing, the method of Bai, Anderson, Kim and Sojoudi (SIMODS 2024)",
    authors="The Adaptive Smoothing Zoo developers",
    venue="N/A",
    link="https://arxiv.org/abs/2301.12554",
)
