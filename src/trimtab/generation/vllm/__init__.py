"""Generation and capture through vLLM, steered by hooks in its workers."""
