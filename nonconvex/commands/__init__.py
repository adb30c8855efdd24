"""The commands: what ``nonconvex NAME`` and the scripts in jobs/ run."""
