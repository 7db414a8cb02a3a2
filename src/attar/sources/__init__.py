"""Find what a recipe names: model weights and data, from a path, a hub, a package mirror or a library."""
