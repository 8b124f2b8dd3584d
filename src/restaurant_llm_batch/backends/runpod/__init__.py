"""RunPod serverless backend: `RunPodLLM` submits, polls and cancels jobs of worker-vllm endpoints."""
