"""What becomes of training as a hyperparameter is moved."""
