"""How good predictions are: pure functions of what is right and what was predicted. No model, no file, no terminal."""
