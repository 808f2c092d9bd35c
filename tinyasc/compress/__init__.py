"""From a trained model to a student that holds its budget."""
