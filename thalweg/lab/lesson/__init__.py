"""What a lesson says of SGD, Adam and RMSprop, each claim put to a test that can come out either way."""
