"""Where metrics go besides the record."""
