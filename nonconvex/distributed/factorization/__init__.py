"""Latent factor models on Spark."""
