"""From a data folder to trained parts: what is drawn or read, encoded once, and learned by one resumable loop."""
