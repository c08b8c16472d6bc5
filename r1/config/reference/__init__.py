"""What can be set: options, keys, types, defaults and comments, read off conf/ and the signatures of the code."""
