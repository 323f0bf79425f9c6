"""What is unbalanced in a training: measures, verdicts and a page that shows them."""
