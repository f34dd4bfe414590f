"""One packed token stream: readers, tokenizer training, packing."""
