"""Pictures that are there more than once: hashes, an exact search, groups, a closer look and a person's verdicts."""
