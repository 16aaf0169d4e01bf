"""Drawing many orders together step by step, in a process that may die at any moment, and the one that watches it."""
