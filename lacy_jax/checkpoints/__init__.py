"""What a checkpoint holds, and how anyone reads one: ours, an export, a Hugging Face folder or a GGUF file."""
