"""Parts of the public estimators and models."""
