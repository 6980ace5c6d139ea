"""Tables, charts and a page that compare pretraining data sets by their results.json; imports no torch."""
