"""Tags from a tagger in the WD contract, for a catalogue or beside a folder's pictures."""
