"""Fine-tuning: a pre-trained model goes on training on labelled examples, for one task."""
