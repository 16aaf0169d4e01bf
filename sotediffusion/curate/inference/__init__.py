"""Models of others at work: which there are, how they are fetched and run, what they are shown, what the scorers say."""
