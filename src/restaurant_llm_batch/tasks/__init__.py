"""Built-in tasks: frozen dataclasses that parse items and return a flow for each."""
