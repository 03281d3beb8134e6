"""How it is shown: figures, the report, JSON, the terminal, the object for notebooks."""
