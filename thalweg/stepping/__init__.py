"""How one step goes: what has changed is seen, what is stepped together is planned, and it is run."""
