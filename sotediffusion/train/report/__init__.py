"""A run as it can be looked at: read from its folder, as one HTML page, as lines for a terminal."""
