"""What is in a catalogue, as numbers, as a page and as one picture's story."""
