"""The jobs: each a frozen description whose `flow` does it for one item."""
