"""Feed-forward networks on Spark."""
