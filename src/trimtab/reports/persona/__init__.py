"""Pictures and page of a persona run."""
