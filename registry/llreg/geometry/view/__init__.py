"""Views: clip threshold, texts and text weights; ``view`` describes them, ``freeze`` measures and keeps one."""
