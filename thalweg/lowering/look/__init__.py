"""Everything that a step depends on, compared with what was noted, by one compiled walk."""
