"""Policy losses: one file per option. A loss says what each token costs and how tokens are weighed against each other."""
