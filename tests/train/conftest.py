from conftest_train import catalog, load, tiny_bn_folder, tiny_folder  # noqa: F401  (fixtures)
