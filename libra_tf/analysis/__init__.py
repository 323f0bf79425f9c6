"""What is unbalanced in a training run: measures, verdicts and a page that shows them."""
