"""The broker: its topology, consuming, publishing, settling, and the dead letters."""
