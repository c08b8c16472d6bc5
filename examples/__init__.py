"""Projects on top of r1: config and code of their own, found as a user's are. See README.md here."""
