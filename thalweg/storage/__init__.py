"""How elements are stored: codecs, where the elements of a tensor lie, and what a group asks for."""
