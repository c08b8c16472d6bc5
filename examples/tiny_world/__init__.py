"""The shipped models: their tokenizer, the corpus that they were pre-trained on, and the experiments that train them."""
