"""Reports: one self-contained page on the predictions of a model, or on several runs side by side."""
