"""The parts of `OpenAILLM`."""
