"""Simulation tests: plans drawn by seed, played through the real engine on virtual time, and checked after every event."""
