"""A range test: one run in which the learning rate climbs, on a task or on the user's own model."""
