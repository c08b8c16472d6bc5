"""Policy losses, one file per option: the cost of each token, and the weight of each token."""
