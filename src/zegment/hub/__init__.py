"""Models on the Hugging Face Hub: their cards, uploads and downloads."""
