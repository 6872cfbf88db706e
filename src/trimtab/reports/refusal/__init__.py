"""Pictures and page of a refusal run."""
