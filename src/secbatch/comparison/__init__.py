"""Models on a labelled file, side by side, and two models on a sample: through the tasks that jobs run."""
