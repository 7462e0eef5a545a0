"""People who verify labels: which pairs they see, what is sent to them, and what comes back."""
