"""Datasets written by a teacher or by the policy: queries, questions, filters, answer cache."""
