"""Measurements: accuracy, gradients, speed, memory, and the report. Run ``python -m eval --help``."""
