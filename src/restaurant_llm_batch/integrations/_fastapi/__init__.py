"""What the HTTP surface is made of; needs fastapi. Users import `integrations.fastapi`."""
