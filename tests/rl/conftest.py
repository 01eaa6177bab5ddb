from answer_fixtures import answered, bench  # noqa: F401  (fixtures)
