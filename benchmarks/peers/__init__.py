"""The workers of the side-by-side benchmarks: one trainer each, stepping at its parent's word (../pairs.py)."""
