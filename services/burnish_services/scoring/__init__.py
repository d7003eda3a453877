"""The scoring service: losses of given responses, and the model's own ratings of samples."""
