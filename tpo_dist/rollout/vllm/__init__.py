"""vLLM behind a small interface; one file here imports it, and this is not the one.

Import the others after `vllm_sampler.set_environment`: vLLM reads the environment while it is imported.
"""
