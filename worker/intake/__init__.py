"""The HTTP intake: requests become events on the exchange, and are answered once the events are safe."""
