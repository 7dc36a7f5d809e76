"""The broker: what stands on it, taking events in, publishing, settling, the dead letters."""
