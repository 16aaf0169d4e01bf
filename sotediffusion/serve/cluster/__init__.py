"""Workers on the machines of a Ray cluster: where they are placed, how many there are, what runs there."""
