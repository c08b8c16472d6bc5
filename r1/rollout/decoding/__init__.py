"""Decoders of the embedded engine."""
