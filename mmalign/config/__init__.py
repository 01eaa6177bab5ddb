"""Options are plain dicts with the origin of each value (`section`, `yaml_reader`). A plugin's pydantic model checks
them (`validate`); `schema` shows them to people and editors; `mmalign.train.layers` merges the options of a run.

config = build(SomeObjective.Config, layers["objective"], "objective")
"""
