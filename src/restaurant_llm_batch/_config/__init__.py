"""What a user may set: strategy, limits, retries, time limits and stop conditions."""
