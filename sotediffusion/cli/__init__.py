"""The command `sote`: one small file per area that parses, calls one function and prints."""
