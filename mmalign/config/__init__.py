"""Configuration: layers of plain dicts (`load`), checked by each plugin's own pydantic model (`validate`, `schema`).

layers = load_layers(recipe=recipe_path("contrastive"), files=[Path("x.yaml")], sets=["objective.beta=0.2"])
config = build(SomeObjective.Config, layers["objective"], "objective")
"""
