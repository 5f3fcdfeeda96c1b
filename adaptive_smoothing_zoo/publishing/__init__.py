"""What is shown of a triplet: recorded results, leaderboard entry, claim, model card."""
