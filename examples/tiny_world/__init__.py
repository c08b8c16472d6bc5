"""The models that r1 ships: their tokenizer, their corpus, and the experiments that make them."""
