"""Publishing checkpoints on the Hugging Face Hub; see README.md beside this file."""
