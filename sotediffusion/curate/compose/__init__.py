"""From numbers and tags to captions: cuts, rules and the card's order."""
