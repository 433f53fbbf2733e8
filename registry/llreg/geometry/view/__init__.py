"""Views: clip threshold, texts and text weights."""
