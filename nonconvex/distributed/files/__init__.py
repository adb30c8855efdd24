"""File systems, and writing that is atomic and verified."""
