"""One training loop for tokenizers and transformers: `loop.train(task, run, config)`."""
