"""The parts of ``eval/check_cuda.py``: what is right on a GPU, and how fast it is."""
