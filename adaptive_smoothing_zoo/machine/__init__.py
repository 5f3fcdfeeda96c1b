"""Devices, precisions, memory and batch sizes."""
