"""Adapters to other libraries; each is imported by itself, with what it needs."""
