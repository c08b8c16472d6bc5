"""What a sweep's runs say: the metric over each parameter, what matters, the best point, and how sure that is."""
