"""The update rules, one file a family: the maths, the hyperparameters, the torch class."""
