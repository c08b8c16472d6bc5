"""Verifiers: is the one answer that a completion states right for its row? One file per option."""
