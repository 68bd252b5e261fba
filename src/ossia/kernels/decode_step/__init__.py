"""What begins a decoding step: tokens embedded, pages and positions laid out."""
