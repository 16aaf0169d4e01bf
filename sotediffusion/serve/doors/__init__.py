"""The APIs, one file each: a dialect's words for orders, and its words for what became of them."""
