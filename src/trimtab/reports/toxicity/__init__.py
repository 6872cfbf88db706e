"""Pictures and page of a toxicity run."""
