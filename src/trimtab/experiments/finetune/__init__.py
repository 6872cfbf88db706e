"""Fine-tuning under steering: keeping a trait out, and foreseeing which data bring it."""
