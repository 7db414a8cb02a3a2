"""Tell people what a run found: tables, one HTML page, a model card, all from `summary.json`."""
