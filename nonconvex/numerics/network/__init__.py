"""Feed-forward networks: forward and backward passes, and training."""
