"""Making a dataset, by one worker or many, that can be stopped and resumed."""
