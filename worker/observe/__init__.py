"""What the operator sees: the log, the metrics, the health endpoints."""
