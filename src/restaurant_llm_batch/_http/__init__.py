"""HTTP and what it means: clients, exchanges, statuses, keys, and the codec of OpenAI's chat API."""
