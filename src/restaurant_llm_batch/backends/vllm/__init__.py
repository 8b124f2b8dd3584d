"""The parts of `VLLMServerLLM` and `VLLMEngineLLM`."""
