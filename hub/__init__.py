"""Publishing checkpoints on the Hugging Face Hub; README.md in this folder is the guide."""
