"""From files to measured rows: where pictures lie, what is noted beside them, which are known already."""
