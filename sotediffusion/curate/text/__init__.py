"""Text in pictures and captions in sentences, asked of models and servers."""
