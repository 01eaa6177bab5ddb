"""Options: plain dicts that know where each value came from (`section`, `yaml_reader`), checked by a plugin's own
pydantic model (`validate`), and shown to people and editors (`schema`). `mmalign.train.layers` builds a run's layers of
them.

config = build(SomeObjective.Config, layers["objective"], "objective")
"""
