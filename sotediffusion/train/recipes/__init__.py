"""What each part of a cascade is trained for: one file a part, each a recipe that `train.loop` runs."""
