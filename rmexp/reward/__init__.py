"""The reward model: losses, training, scoring."""
