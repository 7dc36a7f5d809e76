"""What the demonstration, the tests and the benchmarks share: one stand-in of each thing outside."""
