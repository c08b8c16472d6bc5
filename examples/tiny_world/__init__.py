"""The shipped models: their tokenizer, their pre-training corpus, and the experiments that train them."""
