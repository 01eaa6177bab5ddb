from pipeline_samples import catalog, lab, words  # noqa: F401  (fixtures)
