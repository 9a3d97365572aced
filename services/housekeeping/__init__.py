"""What runs in the background on stored data: sweeper, retention, object deletion, secrets."""
