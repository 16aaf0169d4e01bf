"""From what a user types to the numbers that a text tower reads: the prompt language and its tokenizers; no torch."""
