"""Parts of `nonconvex.recommendation`."""
