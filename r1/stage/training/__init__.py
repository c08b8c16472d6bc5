"""Optimizer, step loader and the metrics of a step."""
