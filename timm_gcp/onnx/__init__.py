"""Export to ONNX: the pooling layer without an eigensolver, and the file with its check."""
