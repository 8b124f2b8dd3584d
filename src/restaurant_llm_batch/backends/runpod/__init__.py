"""The parts of `RunPodLLM`."""
