"""The page of experiment=benchmarks: one table of a model's results, beside those of another model."""
