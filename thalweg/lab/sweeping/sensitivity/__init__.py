"""How much a hyperparameter matters: the metric over its values, the learning rate tuned anew at each."""
