"""Integrations with rich, FastAPI, OpenTelemetry and Prometheus; import each by itself, with its own dependencies."""
