"""OpenAI backend: `OpenAILLM` calls chat completions through the official SDK."""
