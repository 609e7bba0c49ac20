"""jaxame: measure the effect of training data on predictions by randomised experiments."""
