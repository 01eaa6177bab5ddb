from mmalign.testing import conformance

test_plugin = conformance("starter")
