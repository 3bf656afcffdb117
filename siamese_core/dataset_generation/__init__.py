"""Making a set of pairs, by one worker or many, that can be stopped and resumed."""
