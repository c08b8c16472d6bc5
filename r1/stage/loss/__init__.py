"""Policy losses, one file per option: what each token costs, and how tokens are weighed against each other."""
