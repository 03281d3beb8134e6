"""A whole comparison, from what was asked for to the result: from Python and from the command line."""
