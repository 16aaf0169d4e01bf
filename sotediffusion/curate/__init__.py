"""From a pile of pictures to a training catalogue: each picture measured, scored, tagged, captioned, or left out for a reason."""
