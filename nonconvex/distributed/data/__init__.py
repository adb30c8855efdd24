"""Tables of ratings and examples: reading, validation, splits, preparation."""
