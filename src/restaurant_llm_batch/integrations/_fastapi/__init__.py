"""Private parts of the FastAPI router; needs fastapi. Users import `integrations.fastapi`."""
