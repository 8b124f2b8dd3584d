"""Simulation tests: plans are drawn by seed, played on virtual time, and checked after every event."""
