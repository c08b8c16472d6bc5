"""The report of a sweep: the metric over each parameter, importance, the best point, and how certain it is."""
