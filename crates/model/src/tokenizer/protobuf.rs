//! SentencePiece `tokenizer.model` files.
