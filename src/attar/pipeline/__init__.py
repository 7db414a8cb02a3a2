"""Read a recipe, plan it and execute it."""
