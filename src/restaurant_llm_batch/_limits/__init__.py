"""Concurrency limiters, adaptive limits and rate limits: pure state machines, each behind one lock."""
