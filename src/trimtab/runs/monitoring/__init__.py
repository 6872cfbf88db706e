"""Pictures and pages of projections: tokens, conversations, training data."""
