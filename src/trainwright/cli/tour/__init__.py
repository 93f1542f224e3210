"""Commands that show what there is: demos, examples, doors."""
