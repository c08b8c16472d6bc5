"""Datasets: rows, prompt templates, verifiers. One file per option."""
