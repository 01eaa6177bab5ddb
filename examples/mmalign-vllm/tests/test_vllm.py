from mmalign.testing import conformance

test_plugin = conformance("mmalign_vllm")  # where vllm is installed
