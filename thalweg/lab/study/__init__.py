"""What is to be run: a comparison as data, and the rules by which it goes on."""
