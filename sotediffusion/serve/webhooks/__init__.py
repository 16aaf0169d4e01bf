"""The ends of jobs told to their callers' addresses, at least once."""
