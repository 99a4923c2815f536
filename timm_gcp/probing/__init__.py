"""A classifier on the frozen features of a backbone: second-order features in minutes, without training."""
