from answer_fixtures import bench  # noqa: F401  (fixtures)
from conftest_train import catalog, load, tiny_bn_folder, tiny_folder  # noqa: F401  (fixtures)
from resume_cases import lab  # noqa: F401  (fixture)
