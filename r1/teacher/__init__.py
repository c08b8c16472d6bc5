"""Teachers: who writes the answers that another model learns from. One file per option."""
