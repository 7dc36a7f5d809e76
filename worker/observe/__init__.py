"""What the operator sees: the log, the metrics, the traces, the health endpoints."""
