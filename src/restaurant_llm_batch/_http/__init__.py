"""HTTP: transports, requests, status codes and rate-limit headers, API keys, and the codec of OpenAI's chat API."""
