"""What may be asked for, kept and shown, and the marks a made picture carries."""
