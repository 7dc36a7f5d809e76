"""The dialer: VICIdial's non-agent API, in its real dialect and in that of the tutorials."""
