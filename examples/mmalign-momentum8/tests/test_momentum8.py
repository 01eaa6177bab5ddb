from mmalign.testing import conformance

test_plugin = conformance("mmalign_momentum8")
