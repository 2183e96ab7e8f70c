"""What a checkpoint holds, and how anyone reads one: ours, an export, or a Hugging Face folder."""
