"""How devices share the work: one file per option."""
