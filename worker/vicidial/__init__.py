"""The dialer: VICIdial's non-agent API, in the real dialect and in the tutorials'."""
