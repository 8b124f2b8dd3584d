"""Configuration of a runner: strategy, limits, retry policy, time limits and stop conditions."""
