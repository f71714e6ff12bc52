"""vLLM behind a small interface; nothing outside this folder imports it, and neither does this file.

Import its modules after `vllm_sampler.set_environment`: vLLM reads the environment while it is imported.
"""
