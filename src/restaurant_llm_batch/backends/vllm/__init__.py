"""vLLM backends: `VLLMServerLLM` over HTTP, `VLLMEngineLLM` in this process, token counts and metrics."""
