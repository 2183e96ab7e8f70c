"""The closed world: invented people whose facts are all known, and what a cascade writes of them."""
