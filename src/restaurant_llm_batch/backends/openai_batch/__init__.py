"""Provider batches: requests as lines of files, through the official SDK of OpenAI."""
